// The store by itself on a unix socket, without the dom0 around it: what bench/xenstore.js and test/conformance compare
// with other servers.
//
//   node bench/xenstore-server.js SOCKET      prints "ready" and serves until it is killed

import { listenStore } from '../dist/xenbus/server.js';
import { StoreLoop } from '../dist/xenbus/store-loop.js';

const turnStepsMax = 512;
let scheduled = false;
const run = () => {
  scheduled = false;
  for (let turns = 0; turns < turnStepsMax; turns++) if (!loop.serveOne()) return;
  wake();
};
const wake = () => {
  if (scheduled) return;
  scheduled = true;
  setImmediate(run);
};
const loop = new StoreLoop({ domain: () => undefined, wake, log: (line) => console.error(line) });
await listenStore(loop, { path: process.argv[2], domid: 0, who: 'client', log: (line) => console.error(line) });
console.log('ready');
