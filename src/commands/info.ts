import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { printJson, withSession } from '../cli/session.js';
import { XlCommand } from '../cli/xl-command.js';
import { type HostInfo, hostInfo, numaInfo } from '../libxl/info.js';
import { cpuPlaces, virtCapNames, xenVersion } from '../xenbus/machine.js';

export default class Info extends XlCommand {
  static override summary = 'Get information about Xen host';
  static override examples = ['<%= config.bin %> info', '<%= config.bin %> info --numa', '<%= config.bin %> info free_memory'];
  static override args = { field: Args.string({ ignoreStdin: true, description: 'print the values of lines that begin so' }) };
  static override flags = {
    numa: Flags.boolean({ char: 'n', default: false, description: 'print topology and NUMA nodes too' }),
    json: Flags.boolean({ default: false, description: 'print JSON' }),
  };
  static override xl: XlLayout = { usage: '-n, --numa         List host NUMA topology information', options: '' };

  async run(): Promise<void> {
    const { args, flags } = await this.parse(Info);
    await withSession(this, flags, async ({ ctx }) => {
      const info = await hostInfo(ctx);
      if (flags.json) return printJson(asJson(info));
      const lines = infoLines(info, flags.numa);
      const field = flags.numa ? undefined : args.field;
      process.stdout.write(lines.map((line) => (field === undefined ? `${line}\n` : infoValue(line, field))).join(''));
    });
  }
}

/** The value of a line that begins with `field`, and nothing of another. */
function infoValue(line: string, field: string): string {
  const colon = line.indexOf(':');
  return line.startsWith(field) && line[colon + 1] === ' ' ? `${line.slice(colon + 2)}\n` : '';
}

function line(name: string, value: string | number): string {
  return `${name.padEnd(23)}: ${value}`;
}

/** What `xl info` prints, line by line. */
export function infoLines(info: HostInfo, numa: boolean): string[] {
  const { machine } = info;
  const caps = virtCapNames.filter((name) => machine.virtCaps.includes(name)).map((name) => ` ${name}`);
  return [
    line('host', machine.hostName),
    line('release', machine.release),
    line('version', machine.version),
    line('machine', machine.machine),
    line('nr_cpus', machine.nrCpus),
    line('max_cpu_id', machine.nrCpus - 1),
    line('nr_nodes', machine.nrNodes),
    line('cores_per_socket', machine.coresPerSocket),
    line('threads_per_core', machine.threadsPerCore),
    line('cpu_mhz', `${Math.floor(machine.cpuKhz / 1000)}.${String(machine.cpuKhz % 1000).padStart(3, '0')}`),
    line('hw_caps', machine.hwCaps),
    `${'virt_caps'.padEnd(23)}:${caps.join('')}`,
    line('total_memory', info.totalMb),
    line('free_memory', info.freeMb - info.claimedMb),
    line('sharing_freed_memory', 0),
    line('sharing_used_memory', 0),
    line('outstanding_claims', info.claimedMb),
    line('free_cpus', info.freeCpus),
    ...(numa ? [...topologyLines(info), ...numaLines(info)] : []),
    line('xen_major', machine.xenMajor),
    line('xen_minor', machine.xenMinor),
    line('xen_extra', machine.xenExtra),
    line('xen_version', xenVersion(machine)),
    line('xen_caps', machine.xenCaps),
    line('xen_scheduler', info.scheduler),
    line('xen_pagesize', 4096),
    line('platform_params', `virt_start=${machine.virtStart}`),
    line('xen_changeset', machine.xenChangeset),
    line('xen_commandline', machine.xenCommandline),
    line('cc_compiler', machine.ccCompiler),
    line('cc_compile_by', machine.ccCompileBy),
    line('cc_compile_domain', machine.ccCompileDomain),
    line('cc_compile_date', machine.ccCompileDate),
    line('build_id', machine.buildId),
    line('xend_config_format', 4),
  ];
}

/** Where each processor is. No device says which node it is at. */
function topologyLines({ machine }: HostInfo): string[] {
  const places = cpuPlaces(machine).map(({ core, socket, node }, cpu) => {
    const place = [core, socket, node].map((number) => String(number).padStart(4));
    return `${String(cpu).padStart(3)}:    ${place.join('     ')}`;
  });
  return [
    'cpu_topology           :',
    'cpu:    core    socket     node',
    ...places,
    'device topology        :',
    'device           node',
    'No device topology data available',
  ];
}

function numaLines(info: HostInfo): string[] {
  const nodes = numaInfo(info).map(({ sizeMb, freeMb, distances }, node) => {
    const sizes = [sizeMb, freeMb].map((mb) => String(mb).padStart(6));
    return `${String(node).padStart(4)}:    ${sizes.join('     ')}      ${distances.join(',')}`;
  });
  return ['numa_info              :', 'node:    memsize    memfree    distances', ...nodes];
}

function asJson({ machine, totalMb, freeMb, claimedMb, freeCpus, scheduler }: HostInfo) {
  const { totalKb: _total, xenKb: _xen, dom0Kb: _dom0, dom0MaxKb: _dom0Max, ...rest } = machine;
  return { ...rest, xenVersion: xenVersion(machine), xenScheduler: scheduler, totalMb, freeMb, claimedMb, freeCpus };
}
