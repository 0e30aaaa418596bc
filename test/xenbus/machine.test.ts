/** The host as `--host FILE` describes it: what may be in the file, what follows from it, and what is refused. */
import { BadMachine, cpuPlaces, defaultMachine, machineOf, numaNodes } from '../../src/xenbus/machine.js';

test('an empty file is the default host', () => {
  expect(machineOf({})).toEqual(defaultMachine);
});

test('a key changes itself, and what follows from it and is not given', () => {
  const host = machineOf({ nrCpus: 8, nrNodes: 2, threadsPerCore: 2, totalMb: 8192, dom0Mb: 2048, hostName: 'xen1' });
  expect(host).toEqual({
    ...defaultMachine,
    nrCpus: 8,
    nrNodes: 2,
    threadsPerCore: 2,
    coresPerSocket: 2,
    dom0Vcpus: 8,
    totalKb: 8192 * 1024,
    dom0Kb: 2048 * 1024,
    dom0MaxKb: 2048 * 1024,
    hostName: 'xen1',
  });
  expect(machineOf({ nrCpus: 4, dom0Vcpus: 1, coresPerSocket: 1 })).toMatchObject({ dom0Vcpus: 1, coresPerSocket: 1 });
});

test('where dom0 takes nearly everything Xen makes do with the rest', () => {
  expect(machineOf({ totalMb: 1024, dom0Mb: 1000 })).toMatchObject({ xenKb: 24 * 1024 });
});

test.each([
  [[], 'it must be a JSON object'],
  ['text', 'it must be a JSON object'],
  [{ nrCPU: 2 }, 'nrCPU is not known; did you mean nrCpus?'],
  [{ quite_another: 2 }, /^quite_another is not known; there are hostName, release, .*buildId$/],
  [{ totalKb: 2 }, 'totalKb is not known; did you mean totalMb?'],
  [{ nrCpus: '2' }, 'nrCpus must be a whole number from 1 to 256, not "2"'],
  [{ nrCpus: 0 }, 'nrCpus must be a whole number from 1 to 256, not 0'],
  [{ totalMb: 1.5 }, 'totalMb must be a whole number from 1 to 16777216, not 1.5'],
  [{ hostName: 7 }, 'hostName must be text of one line, in ASCII, not 7'],
  [{ hostName: 'a\nb' }, 'hostName must be text of one line, in ASCII, not "a\\nb"'],
  [{ hwCaps: '1:2' }, 'hwCaps must be eight words of eight hexadecimal digits, with colons between, not "1:2"'],
  [{ virtCaps: ['pv', 'magic'] }, /^virtCaps must be a list of any of pv, hvm, .*gnttab-v2, not \["pv","magic"\]$/],
  [{ xenScheduler: 'fair' }, 'xenScheduler must be one of credit, credit2, rtds, null, not "fair"'],
  [{ virtStart: 'ffff' }, 'virtStart must be 0x and hexadecimal digits, not "ffff"'],
  [{ nrNodes: 3 }, 'nrNodes (3) must not be more than nrCpus (2): each node has a processor'],
  [{ dom0Mb: 6143 }, 'dom0Mb (6143) must be less than totalMb (6143)'],
  [{ dom0Mb: 6000, xenMb: 200 }, 'dom0Mb (6000) and xenMb (200) are more than totalMb (6143)'],
  [{ dom0MaxMb: 1000 }, 'dom0MaxMb (1000) must not be less than dom0Mb (1536)'],
])('%j is refused: %s', (given, message) => {
  expect(() => machineOf(given)).toThrow(BadMachine);
  expect(() => machineOf(given)).toThrow(message);
});

test('threads of a core lie side by side, then the cores of a socket; nodes share them', () => {
  const places = cpuPlaces(machineOf({ nrCpus: 8, nrNodes: 2, threadsPerCore: 2 }));
  expect(places.map(({ core, socket, node }) => `${core}/${socket}/${node}`)).toEqual(
    '0/0/0 0/0/0 1/0/0 1/0/0 0/1/1 0/1/1 1/1/1 1/1/1'.split(' '),
  );
});

test('nodes share the memory and its addresses, hole and all, and nothing is lost', () => {
  expect(numaNodes(defaultMachine, 4544)).toEqual([{ sizeMb: 7168, freeMb: 4544, distances: [10] }]);
  expect(numaNodes(machineOf({ nrCpus: 3, nrNodes: 3, totalMb: 2048, dom0Mb: 100 }), 1000)).toEqual([
    { sizeMb: 682, freeMb: 333, distances: [10, 20, 20] },
    { sizeMb: 683, freeMb: 333, distances: [20, 10, 20] },
    { sizeMb: 683, freeMb: 334, distances: [20, 20, 10] },
  ]);
});
