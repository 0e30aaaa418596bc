/**
 * Many toolstacks at once, each with a store connection of its own: all of them get through, none waits for the luck of
 * meeting nobody, and nothing is left. bench/storm.js has the same with processes and 512 of them.
 */
import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainUnpause } from '../../src/libxl/domain.js';
import { PrivcmdError } from '../../src/xenbus/privcmd.js';
import type { XsTransaction } from '../../src/xenbus/xs-client.js';
import { machine, pvConfig } from '../machine.js';

const toolstacks = 16;

/** Creates and destroys a domain with each of them; answers with how often the unluckiest transaction was begun. */
async function storm(seed: number, change: (ctx: Ctx) => Ctx) {
  const m = await machine({ seed });
  const before = await m.store();
  let mostTries = 0;
  const stacks = Array.from({ length: toolstacks }, () => {
    const xs = m.connect('xl');
    const counting: typeof xs = {
      ...xs,
      transaction: (body, options) => {
        let tries = 0;
        const counted = (tx: XsTransaction) => {
          tries += 1;
          mostTries = Math.max(mostTries, tries);
          return body(tx);
        };
        return xs.transaction(counted, options);
      },
    };
    return change({ ...m.ctx, xs: counting });
  });
  const configs = stacks.map((_, index) => pvConfig(`storm-${index}`));
  const domids = await m.run(Promise.all(stacks.map((ctx, index) => domainCreateNew(ctx, configs[index] ?? pvConfig()))));
  await m.run(Promise.all(stacks.map((ctx, index) => domainUnpause(ctx, domids[index] ?? 0))));
  await m.settle();
  const connected = await m.run(
    Promise.all(domids.map((domid) => m.ctx.xs.read(`/local/domain/0/backend/vif/${domid}/0/state`))),
  );
  await m.run(Promise.all(stacks.map((ctx, index) => domainDestroy(ctx, domids[index] ?? 0))));
  await m.settle();
  const empty = ['/vm = ""   (n0)', '/libxl = ""   (n0)'];
  const left = (await m.store()).filter((line) => !before.includes(line) && !empty.includes(line));
  m.dom0.close();
  return {
    mostTries,
    domids: new Set(domids).size,
    connected: new Set(connected),
    left,
    lines: m.lines,
    domains: m.dom0.domains,
  };
}

const whole = { domids: toolstacks, connected: new Set(['4']), left: [], lines: [], domains: 0 };

test.each([1, 2])('seed %i: in turns, no transaction is begun more than a few times', async (seed) => {
  const { mostTries, ...rest } = await storm(seed, (ctx) => ctx);
  expect(rest).toEqual(whole);
  expect(mostTries).toBeGreaterThan(1);
  expect(mostTries).toBeLessThanOrEqual(5);
});

test('without turns to take, they back off, and get through as well', async () => {
  const { mostTries, ...rest } = await storm(4, (ctx) => ({
    ...ctx,
    xc: {
      ...ctx.xc,
      call: (op, args) => {
        if (op === 'dom0.turn') return Promise.reject(new PrivcmdError('ENOSYS', 'an older dom0'));
        return ctx.xc.call(op, args);
      },
    },
  }));
  expect(rest).toEqual(whole);
  expect(mostTries).toBeLessThanOrEqual(30);
});
