import { domainSetMaxMem } from '../libxl/memory.js';
import MemSet from './mem-set.js';

export default class MemMax extends MemSet {
  static override summary = 'Set the maximum amount reservation for a domain';
  static override examples = ['<%= config.bin %> mem-max web 96', '<%= config.bin %> mem-max web 131072k'];
  static override args = MemSet.args;
  static override xl = MemSet.xl;

  protected override readonly limit = 'static';
  protected override readonly set = domainSetMaxMem;
}
