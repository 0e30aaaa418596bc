/**
 * Create and destroy over and over in one dom0 on virtual time, to see whether anything grows: `npm run soak -- --cycles 1500`.
 * Nodes, domains, watches, transactions, tasks and devices must be after any cycle what they were after the first; the heap is
 * printed, measured after a collection.
 */
import { isDeepStrictEqual, parseArgs } from 'node:util';
import { domainCreateNew } from '../../src/libxl/create.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { machine, pvConfig } from '../machine.js';

const { values } = parseArgs({ options: { cycles: { type: 'string', default: '1500' } } });
const cycles = Number(values.cycles);
const m = await machine();

const standing = async () => {
  await m.settle();
  return { nodes: (await m.store()).length, census: m.dom0.census(), files: m.files.size };
};

/** MiB of the heap that are in use. What a test keeps for itself is dropped first. */
function heapMib(): number {
  m.trace.length = 0;
  m.uevents.length = 0;
  m.log.length = 0;
  globalThis.gc?.();
  return process.memoryUsage().heapUsed / 2 ** 20;
}

let first: Awaited<ReturnType<typeof standing>> | undefined;
for (let cycle = 1; cycle <= cycles; cycle++) {
  const domid = await m.run(domainCreateNew(m.ctx, pvConfig()));
  await m.run(domainUnpause(m.ctx, domid));
  await m.settle();
  await m.run(domainDestroy(m.ctx, domid));
  // A domid's history is looked at for a minute.
  m.clock.advance(61_000);
  if (cycle !== 1 && cycle % Math.ceil(cycles / 5) !== 0) continue;
  const now = await standing();
  first ??= now;
  console.log(`${cycle} cycles: ${now.nodes} nodes, ${now.census.tasks.length} tasks, heap ${heapMib().toFixed(2)} MiB`);
  if (isDeepStrictEqual(now, first)) continue;
  console.log(`not as after the first:\n${JSON.stringify(first)}\n${JSON.stringify(now)}`);
  process.exitCode = 1;
}
m.dom0.close();
