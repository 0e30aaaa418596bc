import CpupoolCpuAdd from './cpupool-cpu-add.js';

export default class CpupoolCpuRemove extends CpupoolCpuAdd {
  static override summary = 'Removes a CPU from a CPU pool';
  static override examples = ['<%= config.bin %> cpupool-cpu-remove batch 1'];
  static override args = CpupoolCpuAdd.args;
  static override xl = CpupoolCpuAdd.xl;

  protected override readonly change = 'remove';

  protected override complaint(pool: string): string {
    return (
      `Some cpus may have not or only partially been removed from '${pool}'.\n` +
      `If a cpu can't be added to another cpupool, add it to '${pool}' again and retry.\n`
    );
  }
}
