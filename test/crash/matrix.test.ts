/** A drawn part of the crash matrix; `npm run crash` runs the whole. */
import { seeded } from '../../src/xenbus/clock.js';
import { domainPath } from '../../src/xenbus/paths.js';
import { machine } from '../machine.js';
import { crash, operationOf, operations, variants } from './matrix.js';

/** Kill points of each operation here. */
const points = 2;

test.each(operations.map((operation, index) => ({ operation, index })))(
  'killed at any request of $operation.name, xl destroy and mtwatch prune bring dom0 back',
  async ({ operation, index }) => {
    const draw = seeded(index + 1);
    const variant = variants[index % variants.length] ?? { design: 'hardened', scripts: 'inside' };
    const whole = await crash(operation, { ...variant, kill: undefined });
    expect({ ...whole, leaks: whole.leaks }).toMatchObject({ killed: false, leaks: [] });
    for (let at = 0; at < points; at += 1) {
      const kill = { request: 1 + (draw() % whole.requests), before: draw() % 2 === 0 };
      const { killed, leaks } = await crash(operation, { ...variant, kill });
      expect({ kill, killed, leaks }).toEqual({ kill, killed: true, leaks: [] });
    }
  },
);

test.each(['create', 'create, qemu'])(
  'where the hypervisor has lost the domain, xl mtwatch prune alone removes what a killed %s has left',
  async (name) => {
    const operation = operationOf(name);
    const variant = { design: 'hardened', scripts: 'inside', lost: true } as const;
    const whole = await crash(operation, { ...variant, kill: undefined });
    expect(whole).toMatchObject({ killed: false, pruned: [1], leaks: [] });
    // Each request between the announcement and the commit of the first nodes, then some of the rest.
    const announced = whole.asked.indexOf('WRITE /local/domain/0/mtwatch/1') + 1;
    const born = whole.asked.findIndex((asked, at) => at > announced && asked.startsWith('TRANSACTION_END')) + 1;
    const between = Array.from({ length: born - announced + 1 }, (_, at) => announced + at);
    const draw = seeded(1);
    const later = [1, 2, 3].map(() => born + (draw() % (whole.requests - born)));
    expect(between.length).toBeGreaterThan(2);
    for (const request of [...(name === 'create' ? between : []), ...later]) {
      const { killed, pruned, leaks } = await crash(operation, { ...variant, kill: { request, before: false } });
      expect({ request, killed, pruned, leaks }).toEqual({ request, killed: true, pruned: [1], leaks: [] });
    }
  },
);

test('what stays is seen: nodes, loop devices and a law that is broken', async () => {
  const operation = operationOf('create -p');
  const sloppy = {
    ...operation,
    run: async ({ ctx }: Parameters<typeof operation.run>[0]) => {
      await ctx.xs.write(domainPath(7), '');
      await ctx.xs.rm(domainPath(7));
      await ctx.xs.write('/stays', '');
      await ctx.xc.call('dom0.block_attach', { path: '/srv/disk.img', as: 'loop', sectors: 8 });
    },
  };
  const { leaks } = await crash(sloppy, { design: 'hardened', scripts: 'inside', kill: undefined });
  expect(leaks).toEqual([
    'left node /stays = ""   (n0)',
    'left loop /dev/loop0 /srv/disk.img',
    '/local/domain/7 was there without mtwatch/7',
  ]);
});

test('the law is looked at after every change of the store, whoever makes it', async () => {
  const m = await machine();
  const work = async () => {
    await m.ctx.xs.transaction(async (tx) => {
      await tx.write(domainPath(3), '');
      await tx.write('/local/domain/0/mtwatch/3', '');
    });
    expect([...m.unannounced]).toEqual([]);
    await m.ctx.xs.rm('/local/domain/0/mtwatch/3');
  };
  await m.run(work());
  expect([...m.unannounced]).toEqual([3]);
});
