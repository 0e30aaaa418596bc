// A guest agent: says that it is there, and answers what the host writes to data/ask in this guest's part of the store.
import { hostname, uptime } from 'node:os';
import { byteString, connect } from 'xl-mtwatch/xenstore';

const xs = await connect();
const signal = stopSignal();
const answers = { ping: () => 'pong', name: () => hostname(), uptime: () => `${Math.round(uptime())}` };

await xs.write('data/agent', 'ready');
try {
  for await (const { path } of xs.watch('data/ask', { signal })) {
    const asked = await xs.read(path);
    if (!asked) continue; // Nothing was asked yet, or this is the event of our own write below.
    const answer = Object.hasOwn(answers, asked) ? answers[asked]() : `I do not know ${asked}`;
    await xs.write('data/answer', byteString(answer));
    await xs.write('data/ask', '');
  }
} catch (error) {
  if (!signal.aborted) throw error;
}
await xs.rm('data/agent');
xs.close();

function stopSignal() {
  const stopping = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM']) process.once(name, () => stopping.abort());
  return stopping.signal;
}
