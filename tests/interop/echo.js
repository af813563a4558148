// What the pages have in common: messages over a data channel, which the other side sends back, and what became of it, which
// is posted to /outcome: what `succeed` was given, or { failed }.
const MESSAGES = 100;
const BYTES = 10_000;

const { promise: outcome, resolve: succeed, reject: fail } = Promise.withResolvers();
export { fail };

export function failsWith(connection) {
  connection.onconnectionstatechange = () => connection.connectionState === "failed" && fail("the connection failed");
}

// Succeeds once all messages have come back, with their number and what `path` says.
export function echoes(channel, path) {
  channel.binaryType = "arraybuffer";
  channel.onopen = () => {
    for (let i = 0; i < MESSAGES; i++) channel.send(new Uint8Array(BYTES).fill(i));
  };
  let messages = 0;
  channel.onmessage = ({ data }) => {
    const bytes = new Uint8Array(data);
    if (bytes.length !== BYTES || bytes.some((byte) => byte !== messages)) fail(`message ${messages} differs`);
    messages += 1;
    if (messages === MESSAGES) path().then((path) => succeed({ messages, ...path }), fail);
  };
}

// The local and the remote candidate of the selected pair.
export async function selectedCandidates(connection) {
  const stats = await connection.getStats();
  const transport = [...stats.values()].find(({ type }) => type === "transport");
  const pair = stats.get(transport.selectedCandidatePairId);
  return [pair.localCandidateId, pair.remoteCandidateId].map((id) => stats.get(id));
}

export async function post(exchange) {
  exchange.catch(fail);
  const body = await outcome.catch((reason) => ({ failed: String(reason) }));
  await fetch("/outcome", { method: "POST", body: JSON.stringify(body) });
}
