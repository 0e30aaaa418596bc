/** What a peer can cause again and again, or at a size that nobody meets by accident. */
import { StoreLoop } from '../../src/xenbus/store-loop.js';
import { joinStrings, splitStrings, XsType } from '../../src/xenbus/xs-wire.js';

function rig() {
  const living = new Set([1, 2]);
  const log: string[] = [];
  const loop = new StoreLoop({
    domain: (domid) => (living.has(domid) ? { dying: false, shutdown: false } : undefined),
    wake: () => undefined,
    log: (line) => log.push(line),
  });
  const run = () => {
    while (loop.serveOne());
  };
  const join = (domid: number) => {
    let last = '';
    const link = loop.connect({
      domid,
      who: 'client',
      deliver: (packet) => {
        if (packet.type !== XsType.WatchEvent) last = splitStrings(packet.payload).join(' ');
      },
      closed: () => undefined,
    });
    return (type: number, strings: readonly string[], txId = 0): string => {
      link.push({ type, reqId: 1, txId, payload: joinStrings(...strings) });
      run();
      return last;
    };
  };
  const dom0 = join(0);
  const introduce = () => {
    dom0(XsType.Mkdir, ['/local/domain/1']);
    dom0(XsType.SetPerms, ['/local/domain/1', 'n1']);
    dom0(XsType.Introduce, ['1', '1', '1']);
    return join(1);
  };
  return { log, dom0, introduce };
}

test('CONTROL check is answered when a directory has very many children', () => {
  const { dom0 } = rig();
  for (let i = 0; i < 150_000; i += 1) dom0(XsType.Mkdir, [`/x/${i}`]);
  expect(dom0(XsType.Control, ['check'])).toBe('OK');
});

test('a guest that goes back and forth over its soft quota cannot fill the log', () => {
  const { log, dom0, introduce } = rig();
  const guest = introduce();
  expect(dom0(XsType.Control, ['quota-soft', 'set', 'memory', '3000'])).toBe('OK');
  for (let i = 0; i < 100; i += 1) {
    guest(XsType.Write, ['a', 'v'.repeat(1900)]);
    guest(XsType.Write, ['b', 'v'.repeat(1900)]);
    guest(XsType.Write, ['a', '']);
    guest(XsType.Write, ['b', '']);
  }
  expect(log.map((line) => /\(\d+ times so far\)/.exec(line)?.[0] ?? 'once')).toEqual([
    'once',
    ...[2, 4, 8, 16, 32, 64].map((times) => `(${times} times so far)`),
  ]);
});

test('a text of CONTROL print is one line of the log', () => {
  const { log, dom0 } = rig();
  dom0(XsType.Control, ['print', 'text\nxenstored: forged \u001b[31m']);
  expect(log.join('')).not.toMatch(/[\n\u001b]/);
});
