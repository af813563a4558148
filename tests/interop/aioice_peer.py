"""An ICE end by aioice that speaks as `thirl ice` does: JSON lines on standard input and output.

usage: aioice_peer.py controlling|controlled [--turn HOST:PORT USER PASSWORD TRANSPORT] [--relay] [--send N | --every MS]

It prints its description, reads the other side's, connects, prints the selected pair, then sends N datagrams and waits
for their echoes (--send N), or sends a numbered one every so often and counts what is missing of the other side's (--every MS),
or echoes what it receives until the other side is silent for two seconds after the first.
"""

import argparse
import asyncio
import json
import sys
import time

import aioice


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["controlling", "controlled"])
    parser.add_argument("--stun", metavar="HOST:PORT")
    parser.add_argument("--turn", nargs=4, metavar=("HOST:PORT", "USER", "PASSWORD", "TRANSPORT"))
    parser.add_argument("--relay", action="store_true")
    parser.add_argument("--send", type=int, default=0)
    parser.add_argument("--every", type=int, default=0)
    return parser.parse_args()


def address(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def connection(arguments):
    options = {}
    if arguments.stun:
        options["stun_server"] = address(arguments.stun)
    if arguments.turn:
        server, user, password, transport = arguments.turn
        options.update(
            turn_server=address(server),
            turn_username=user,
            turn_password=password,
            turn_transport="tcp" if transport == "tls" else transport,
            turn_ssl=transport == "tls",
        )
    if arguments.relay:
        options["transport_policy"] = aioice.TransportPolicy.RELAY
    return aioice.Connection(ice_controlling=arguments.role == "controlling", components=1, **options)


async def standard_input():
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


def say(**fields):
    print(json.dumps(fields), flush=True)


async def flow(ice, every, begun, told):
    """Until standard input ends; what is on its way then gets half a second."""
    relayed = "relay" in (ice._nominated[1].local_candidate.type, ice._nominated[1].remote_candidate.type)

    def milliseconds():
        return (time.monotonic() - begun) * 1000

    local = "candidate:" + ice._nominated[1].local_candidate.to_sdp()
    say(selected="relayed" if relayed else "direct", local=local, ms=milliseconds())
    numbers = set()

    async def listen():
        while True:
            word, _, number = (await ice.recv()).partition(b" ")
            if word == b"thirl":
                if not numbers:
                    say(first_data_ms=milliseconds())
                numbers.add(int(number))

    listening = asyncio.create_task(listen())
    ended = asyncio.create_task(told.read())
    sent = 0
    while not ended.done():
        await ice.send(b"thirl %d" % sent)
        sent += 1
        await asyncio.wait([ended], timeout=every / 1000)
    await asyncio.wait([listening], timeout=0.5)
    listening.cancel()
    lost = max(numbers) - min(numbers) + 1 - len(numbers) if numbers else 0
    say(sent=sent, received=len(numbers), lost=lost)


async def main():
    arguments = parse_arguments()
    ice = connection(arguments)
    await ice.gather_candidates()
    candidates = ["candidate:" + candidate.to_sdp() for candidate in ice.local_candidates]
    say(ufrag=ice.local_username, pwd=ice.local_password, candidates=candidates)

    told = await standard_input()
    remote = json.loads(await told.readline())
    begun = time.monotonic()
    ice.remote_username, ice.remote_password = remote["ufrag"], remote["pwd"]
    for candidate in remote["candidates"]:
        await ice.add_remote_candidate(aioice.Candidate.from_sdp(candidate.removeprefix("candidate:")))
    await ice.add_remote_candidate(None)
    await asyncio.wait_for(ice.connect(), 30)

    pair = ice._nominated[1]
    say(
        state="connected",
        local=pair.local_candidate.type,
        remote=pair.remote_candidate.type,
        remote_address=[pair.remote_candidate.host, pair.remote_candidate.port],
    )
    if arguments.every:
        await flow(ice, arguments.every, begun, told)
    elif arguments.send:
        echoed = 0
        for number in range(arguments.send):
            message = b"aioice %d" % number
            await ice.send(message)
            if await asyncio.wait_for(ice.recv(), 5) == message:
                echoed += 1
        say(echoed=echoed)
    else:
        try:
            while True:
                await ice.send(await asyncio.wait_for(ice.recv(), 2 if ice else 10))
        except (asyncio.TimeoutError, ConnectionError):
            pass
    await ice.close()


asyncio.run(main())
