import { domainCreateNew } from '../../src/libxl/create.js';
import type { Ctx } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { type Machine, machine, pvConfig } from '../machine.js';
import type { Toolstack, ToolstackOptions } from '../toolstack.js';

/** Lets `work` go on until it is done or its toolstack is killed. */
function runOf(m: Machine, { ended }: Toolstack, work: Promise<unknown>): Promise<unknown> {
  return m.run(Promise.race([work.catch(() => undefined), ended]));
}

test('creates and destroys as the toolstack that cannot be killed does, request by request', async () => {
  const own = await machine();
  await own.run(domainCreateNew(own.ctx, pvConfig()));
  const m = await machine();
  const toolstack = m.toolstack();
  const domid = await m.run(domainCreateNew(toolstack.ctx, pvConfig()));
  expect(domid).toBe(1);
  const packets = (from: Machine) => from.trace.filter(({ who }) => who === 'xl').map(({ op, args }) => [op, args[0]]);
  const sent = (from: Machine) => packets(from).filter(([op, path]) => op !== 'WATCH_EVENT' && !path?.startsWith('/vm/'));
  expect(sent(m)).toEqual(sent(own));
  expect(toolstack.asked.slice(0, 3)).toEqual(['xc.domain_create', 'WRITE /local/domain/0/mtwatch/1', 'TRANSACTION_START']);
  await m.run(domainDestroy(m.toolstack().ctx, domid));
  expect(m.dom0.domains).toBe(0);
});

test('counts every request, and is gone after the one that it is killed at', async () => {
  const m = await machine();
  const toolstack = m.toolstack({ killAfter: 2 });
  await runOf(m, toolstack, domainCreateNew(toolstack.ctx, pvConfig()));
  expect([toolstack.killed, toolstack.asked]).toEqual([true, ['xc.domain_create', 'WRITE /local/domain/0/mtwatch/1']]);
  expect(await m.store()).toContain('/local/domain/0/mtwatch/1 = ""   (n0)');
  expect(m.dom0.domains).toBe(1);
});

test('does not carry out the request that it is killed before', async () => {
  const m = await machine();
  const toolstack = m.toolstack({ killAfter: 2, before: true });
  await runOf(m, toolstack, domainCreateNew(toolstack.ctx, pvConfig()));
  expect(toolstack.killed).toBe(true);
  expect((await m.store()).filter((line) => line.includes('mtwatch/'))).toEqual([]);
});

test('loses its transactions, watches and connections with its life', async () => {
  const m = await machine();
  const before = m.dom0.connections;
  const toolstack = m.toolstack({ killAfter: 3 });
  const { xs } = toolstack.ctx;
  const fired: string[] = [];
  const work = async () => {
    await xs.watch('/a', (path) => fired.push(path));
    await xs.transaction(async (tx) => {
      await tx.write('/a', '1');
    });
  };
  await runOf(m, toolstack, work());
  await m.run(m.connect('client').write('/a', '2'));
  await m.settle();
  expect(fired).toEqual(['/a']);
  // That of the client which has just written.
  expect(m.dom0.connections).toBe(before + 1);
});

test('leaves a lock to the next who waits for it', async () => {
  const m = await machine();
  const [holder, killedToo, next] = [m.toolstack(), m.toolstack(), m.toolstack()];
  await m.run(holder.ctx.host.lockUserdata(1, 'u'));
  void killedToo.ctx.host.lockUserdata(1, 'u');
  const locked = next.ctx.host.lockUserdata(1, 'u');
  await m.settle();
  killedToo.kill();
  holder.kill();
  await m.run(locked);
  expect([...m.locks.keys()]).toEqual(['domain 1']);
});

test('a script of its own is carried out to its end, one inside it is not', async () => {
  const connectedAfter = async (scripts: 'child' | 'inside') => {
    const whole = await machine();
    const { ctx, asked } = whole.toolstack({ scripts });
    await whole.run(domainCreateNew(ctx, pvConfig()));
    const m = await machine();
    const killAfter = asked.indexOf(scripts === 'child' ? '/etc/xen/scripts/block add' : 'dom0.block_attach') + 1;
    const toolstack = m.toolstack({ scripts, killAfter });
    await runOf(m, toolstack, domainCreateNew(toolstack.ctx, pvConfig()));
    expect(toolstack.asked.at(-1)).toBe(asked[killAfter - 1]);
    await m.settle();
    return (await m.store()).filter((line) => line.includes('vbd/1/51712/hotplug-status'));
  };
  expect(await connectedAfter('child')).toEqual([expect.stringContaining('connected')]);
  expect(await connectedAfter('inside')).toEqual([]);
});

/**
 * Runs a creation, killed after each of its requests in turn, whose steps have hooks planted: on every step a `catch` and
 * a `finally` that write what they are to the store. Answers with what the hooks left, and how often the code ran.
 */
async function planted(options: ToolstackOptions): Promise<{ readonly traces: string[]; readonly ran: number }> {
  let ran = 0;
  const traces: string[] = [];
  for (let k = 1; k <= 60; k++) {
    const m = await machine();
    const toolstack = m.toolstack({ ...options, killAfter: k });
    const hook = (ctx: Ctx, what: string) => {
      if (toolstack.killed) ran += 1;
      void ctx.xs.write('/planted', what).catch(() => undefined);
      void m.ctx.xs.write('/planted', what);
    };
    const { ctx } = toolstack;
    const work = async () => {
      const state = { domid: 0 };
      try {
        state.domid = await domainCreateNew(ctx, pvConfig());
      } catch (error) {
        hook(ctx, `catch ${error}`);
      } finally {
        hook(ctx, 'finally');
      }
    };
    await runOf(m, toolstack, work());
    await m.settle();
    traces.push(...(await m.store()).filter((line) => line.startsWith('/planted')));
  }
  return { traces, ran };
}

test('runs none of its code once it is killed: planted hooks leave no trace', async () => {
  expect(await planted({})).toEqual({ traces: [], ran: 0 });
});

test('a kill that only refuses what is asked is found out by the same hooks', async () => {
  const { traces, ran } = await planted({ mutant: true });
  expect(ran).toBeGreaterThan(0);
  expect(traces.length).toBeGreaterThan(0);
});
