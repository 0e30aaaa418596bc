/** Connections as a guest without sockets: what waits for what when a domain's place opens and closes slowly. */
import { type GuestListener, type GuestSockets, guestSockets } from '../../src/xenbus/guest-sockets.js';
import { linkTransport, type StorePort } from '../../src/xenbus/transport.js';
import { type Xs, xsClient } from '../../src/xenbus/xs-client.js';
import { type Machine, machine } from '../machine.js';

/** A place that opens and closes when the test says so. */
interface Place {
  readonly port: StorePort;
  open(): void;
  fail(why: string): void;
  closed(): void;
}

let m: Machine;
let guests: GuestSockets;
let places: Place[];
let said: string[];
let xs: Xs;

beforeEach(async () => {
  places = [];
  said = [];
  m = await machine({ introduced: (domid) => guests.introduced(domid), released: (domid) => guests.released(domid) });
  guests = guestSockets({ listen, port: m.dom0, log: (line) => said.push(line) });
  xs = xsClient(linkTransport(guests.introducing(m.dom0), { domid: 0, who: 'xl' }));
});
afterEach(() => m.dom0.close());

function listen(domid: number, port: StorePort): Promise<GuestListener> {
  said.push(`open ${domid}`);
  return new Promise((opened, failed) => {
    let closed: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => {
      closed = resolve;
    });
    const close = () => {
      said.push(`close ${domid}`);
      return ended;
    };
    places.push({ port, open: () => opened({ close }), fail: (why) => failed(new Error(why)), closed });
  });
}

/** A domain of the hypervisor's that the store does not know yet. */
async function newDomain(): Promise<number> {
  return (await m.ctx.xc.call('xc.domain_create', { uuid: '00000000-0000-4000-8000-000000000001', maxVcpus: 1 })).domid;
}

/** Notes when a request is answered. */
function note(what: string, asked: Promise<unknown>): void {
  asked.then(
    () => said.push(what),
    (error: Error) => said.push(`${what}: ${error.message}`),
  );
}

/** What was said since the last look, when all has happened that can. */
async function news(): Promise<string[]> {
  await m.settle();
  return said.splice(0);
}

test('the reply to INTRODUCE waits for the place, with all that is behind it; nobody else waits', async () => {
  const domid = await newDomain();
  await m.run(xs.watch('@introduceDomain', () => said.push('event'), 'token'));
  await news();
  note('introduced', xs.introduce(domid, 1, 1));
  note('read', xs.read('/tool'));
  expect(await news()).toEqual(['open 1', 'event']);
  note('read by another', m.ctx.xs.read('/tool'));
  expect(await news()).toEqual(['read by another']);
  places[0]?.open();
  expect(await news()).toEqual(['introduced', 'read']);
});

test('a place that cannot be opened is told in one line, and the domain goes on without', async () => {
  note('introduced', xs.introduce(await newDomain(), 1, 1));
  await m.settle();
  places[0]?.fail('listen EMFILE: too many open files guest/1/socket');
  expect(await news()).toEqual([
    'open 1',
    'domain 1 has no socket: listen EMFILE: too many open files guest/1/socket',
    'introduced',
  ]);
  note('released', xs.release(1));
  expect(await news()).toEqual(['released']);
});

test('an introduction that is refused opens nothing', async () => {
  note('introduced', xs.introduce(7, 1, 1));
  expect(await news()).toEqual(['introduced: EINVAL: INTRODUCE']);
});

test('a domain that is introduced once more keeps its place', async () => {
  const domid = await newDomain();
  note('introduced', xs.introduce(domid, 1, 1));
  await m.settle();
  places[0]?.open();
  note('again', xs.introduce(domid, 1, 1));
  expect(await news()).toEqual(['open 1', 'introduced', 'again']);
});

test('the place of a domain that was released while it opened is closed as soon as it is open', async () => {
  note('introduced', xs.introduce(await newDomain(), 1, 1));
  await m.settle();
  note('released', m.ctx.xs.release(1));
  expect(await news()).toEqual(['open 1', 'released']);
  places[0]?.open();
  places[0]?.closed();
  expect(await news()).toEqual(['close 1', 'introduced']);
});

test('the place is closed before the reply to RELEASE, and opened again only when nothing of the first is left', async () => {
  const domid = await newDomain();
  note('introduced', xs.introduce(domid, 1, 1));
  await m.settle();
  places[0]?.open();
  await news();
  note('released', xs.release(domid));
  note('introduced again', xs.introduce(domid, 1, 1));
  expect(await news()).toEqual(['close 1', 'released']);
  places[0]?.closed();
  expect(await news()).toEqual(['open 1']);
  places[1]?.open();
  expect(await news()).toEqual(['introduced again']);
});

test('whoever comes through a place when its domain was released finds nobody, and the store hears nothing of it', async () => {
  const domid = await newDomain();
  note('introduced', xs.introduce(domid, 1, 1));
  await m.settle();
  places[0]?.open();
  const port = places[0]?.port;
  if (!port) throw new Error('no place was opened');
  const connect = () => xsClient(linkTransport(port, { domid, who: 'client' }));
  const early = connect();
  expect(await m.run(early.getDomainPath(domid))).toBe('/local/domain/1');
  note('released', xs.release(domid));
  await m.settle();
  const before = m.dom0.connections;
  const late = linkTransport(port, { domid, who: 'client' });
  late.receive({ packet: () => undefined, closed: (reason) => said.push(`late: ${reason?.message}`) });
  expect(m.dom0.connections).toBe(before);
  await expect(m.run(early.read('name'))).rejects.toThrow('domain 1 was released');
});

test('at the end every place is closed', async () => {
  note('1', xs.introduce(await newDomain(), 1, 1));
  note('2', m.ctx.xs.introduce(await newDomain(), 1, 1));
  await m.settle();
  places[0]?.open();
  await news();
  note('closed', guests.close());
  places[1]?.open();
  expect(await news()).toEqual(['close 1', 'close 2']);
  for (const place of places) place.closed();
  expect(await news()).toEqual(['closed']);
});
