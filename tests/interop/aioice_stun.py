"""aioice's STUN codec as a program: JSON lines on standard input, an answer to each on standard output.

usage: aioice_stun.py PASSWORD

{"read": HEX} is answered with the message, {"write": MESSAGE} with {"hex": HEX}. A message is an object with class,
method, id, attributes ([name, value] in order; bytes are lists of numbers, and so is the address before its port),
signed (with PASSWORD) and fingerprint.
What goes wrong is answered with {"error": TEXT}.
"""

import ipaddress
import json
import sys

from aioice import stun

KEY = sys.argv[1].encode()
BYTES = {"NONCE", "DATA"}
ADDRESSES = {"MAPPED-ADDRESS", "XOR-MAPPED-ADDRESS", "XOR-PEER-ADDRESS", "XOR-RELAYED-ADDRESS"}
ENDING = {"MESSAGE-INTEGRITY", "FINGERPRINT"}


def read(data):
    message = stun.parse_message(data)
    attributes = [[name, to_json(name, value)] for name, value in message.attributes.items() if name not in ENDING]
    return {
        "class": message.message_class.name,
        "method": int(message.message_method),
        "id": message.transaction_id.hex(),
        "attributes": attributes,
        "signed": message.check_message_integrity(KEY),
        "fingerprint": "FINGERPRINT" in message.attributes,
    }


def to_json(name, value):
    if name in ADDRESSES:
        return [list(ipaddress.ip_address(value[0]).packed), value[1]]
    return list(value) if isinstance(value, (bytes, tuple)) else value


def write(said):
    message = stun.Message(
        message_method=stun.Method(said["method"]),
        message_class=stun.Class[said["class"]],
        transaction_id=bytes.fromhex(said["id"]),
        attributes={name: from_json(name, value) for name, value in said["attributes"]},
    )
    if said["signed"]:
        message.add_message_integrity(KEY)
    elif said["fingerprint"]:
        message.add_fingerprint()
    return {"hex": bytes(message).hex()}


def from_json(name, value):
    if name in ADDRESSES:
        return str(ipaddress.ip_address(bytes(value[0]))), value[1]
    if name in BYTES:
        return bytes(value)
    return tuple(value) if isinstance(value, list) else value


for line in sys.stdin:
    question = json.loads(line)
    try:
        answer = read(bytes.fromhex(question["read"])) if "read" in question else write(question["write"])
    except Exception as error:
        answer = {"error": repr(error)}
    print(json.dumps(answer), flush=True)
