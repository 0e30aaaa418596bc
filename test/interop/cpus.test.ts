/** The commands about processors as they are typed: what a real host printed for the same words, in the same order. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Lab, lab, pvCfg } from './harness.js';

let l: Lab;
beforeEach(() => {
  l = lab();
});
afterEach(() => l.close());

const said = (stdout: string, stderr = '', exitCode = 0) => ({ stdout, stderr, exitCode });

/** Times are a model's and differ from run to run. */
const timeless = (text: string) => text.replace(/ +\d+\.\d(?=\s)/g, ' T');

/** Runs a line of words that have no blanks in them. */
async function xl(line: string) {
  const { stdout, stderr, exitCode } = await l.xl(...line.split(' '));
  return said(timeless(stdout), stderr, exitCode);
}

async function create(more: string): Promise<void> {
  writeFileSync(join(l.dir, 'pv.cfg'), pvCfg('pv', more));
  expect(await xl('create -q -p pv.cfg')).toEqual(said(''));
}

const weightHeader = 'Name                                ID Weight  Cap\n';

test('vcpus are listed, pinned and taken off', async () => {
  await create('maxvcpus = 3\ncpus = ["0", "1"]\ncpu_weight = 300\ncap = 50');
  const list = async () => (await l.xl('vcpu-list', 'pv')).stdout.split('\n').slice(1, -1);
  expect(timeless((await list()).join('\n'))).toBe(
    `pv                                   1     0    0   --- T  0 / all
pv                                   1     1    -   --p T  1 / all
pv                                   1     2    -   --p T  all / all`,
  );
  expect(await xl('sched-credit2 -d pv')).toEqual(said(`${weightHeader}pv                                   1    300   50\n`));
  expect(await xl('-N vcpu-pin pv 9 0-1,^1 -')).toEqual(said('cpumap: 0\n'));
  expect(await xl('-N vcpu-pin pv 0 - all')).toEqual(said('cpumap: - all\n'));
  expect(await xl('vcpu-pin pv all 0')).toEqual(said(''));
  expect(await xl('vcpu-pin pv 5 0')).toEqual(
    said(
      '',
      "libxl: error: libxl_sched.c:62:libxl__set_vcpuaffinity: Domain 1:Setting vcpu affinity: Invalid argument\nCould not set affinity for vcpu `5'.\n",
      1,
    ),
  );
  expect(await xl('vcpu-pin 99 0 0')).toEqual(said('', 'Could not get domain info\n', 1));
  expect(await xl('vcpu-pin pv x 0')).toEqual(said('', 'Error: Invalid argument x as VCPU.\n', 1));
  expect((await list()).map((row) => row.slice(-8))).toEqual([' 0 / all', ' 0 / all', ' 0 / all']);
  expect(await xl('vcpu-set pv 3')).toEqual(
    said('', 'You are overcommmitting! You have 2 physical CPUs and want 3 vCPUs! Aborting, use --ignore-host to continue\n', 1),
  );
  expect(await xl('vcpu-set -i pv 3')).toEqual(said(''));
  expect(await xl('xenstore read /local/domain/1/cpu/2/availability')).toEqual(said('online\n'));
  expect(await xl('vcpu-list nosuch')).toEqual(
    said(
      'Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)\n',
      'nosuch is an invalid domain identifier (rc=-6)\n',
      1,
    ),
  );
});

test('a cpupool is made, filled, used, named and taken away', async () => {
  await create('');
  expect(await xl('cpupool-cpu-remove Pool-0 node:0')).toEqual(
    said(
      '',
      `libxl: error: libxl_cpupool.c:365:libxl_cpupool_cpuremove: Error removing cpu 0 from cpupool: Invalid argument
Some cpus may have not or only partially been removed from 'Pool-0'.
If a cpu can't be added to another cpupool, add it to 'Pool-0' again and retry.
`,
    ),
  );
  // xl ends with the number of the scheduler that it was not told.
  expect(await xl('cpupool-create name="batch" cpus=["0"]')).toEqual(said('', 'cpu 0 illegal or not free\n', 6));
  expect(await xl('cpupool-create name="batch" cpus=["1"] sched="Credit"')).toEqual(
    said('Using config file "command line"\ncpupool name:   batch\nscheduler:      credit\nnumber of cpus: 1\n'),
  );
  expect(await xl('cpupool-migrate pv batch')).toEqual(said(''));
  expect(await xl('cpupool-rename 1 night')).toEqual(said(''));
  expect(await xl('cpupool-list')).toEqual(
    said(`Name               CPUs   Sched     Active   Domain count
Pool-0               1   credit2       y          1
night                1    credit       y          1
`),
  );
  expect(await xl('cpupool-list -c night')).toEqual(said('Name               CPU list\nnight              1\n'));
  expect((await xl('list -cn pv')).stdout).toBe(
    `Name                                        ID   Mem VCPUs\tState\tTime(s)         Cpupool NODE Affinity
pv                                           1   128     1     --p--- T           night all
`,
  );
  expect(await xl('sched-credit -s -p night -t 20')).toEqual(said(''));
  expect(await xl('sched-credit')).toEqual(
    said(`Cpupool night: tslice=20ms ratelimit=1000us migration-delay=0us
${weightHeader}pv                                   1    256    0
`),
  );
  expect(await xl('cpupool-destroy night')).toEqual(said('', "Can't destroy cpupool 'night'\n", 1));
  expect(await xl('cpupool-migrate pv 0')).toEqual(said(''));
  expect(await xl('cpupool-destroy night')).toEqual(said(''));
  expect(await xl('cpupool-cpu-add Pool-0 all')).toMatchObject({
    exitCode: 0,
    stderr: expect.stringMatching(/added to Pool-0\n$/),
  });
  expect(await xl('cpupool-numa-split')).toEqual(said(''));
  expect(await xl('cpupool-list --cpus')).toEqual(said('Name               CPU list\nPool-node0         0,1\n'));
});

test('sched-rtds says what a hypervisor without it lets it say', async () => {
  expect(await xl('sched-rtds')).toEqual(said(''));
  expect(await xl('sched-rtds -d 0')).toEqual(
    said(
      'Name                                ID    Period    Budget  Extratime\n',
      'libxl_domain_sched_params_get returned credit2 not rtds.\n',
      1,
    ),
  );
  for (const [line, stderr] of [
    ['-v 0', 'Missing parameters.'],
    ['-d 0 -p 5', 'Must specify VCPU.'],
    ['-d 0 -v all -v 0', 'Incorrect VCPU IDs.'],
    ['-d 0 -v 0 -v 1 -p 5 -b 5 -e 1', 'Incorrect number of period, budget and extratime'],
    ['-d 0 -v 0 -e 2', 'Invalid extratime.'],
    ['--cpupool=Pool-0 -d 0', 'Specifying a cpupool is not allowed with other options.'],
  ]) {
    expect(await xl(`sched-rtds ${line}`)).toEqual(said('', `${stderr}\n`, 1));
  }
  expect(await xl('sched-rtds -d 0 -v 0 -p 5 -b 5 -e 1')).toEqual(
    said(
      '',
      'libxl: error: libxl_sched.c:653:sched_rtds_vcpu_set: Setting vcpu sched rtds: Invalid argument\nlibxl_vcpu_sched_params_set failed.\n',
      1,
    ),
  );
});
