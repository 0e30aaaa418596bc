/** Which debug messages a command line asks for. */
import { debugModules } from '../../../src/xenbus/kernel/printk.js';

const modules = ['xenbus', 'xen_blkback', 'xen_netback'];

test.each([
  ['', []],
  ['dyndbg', []],
  ['dyndbg=""', []],
  ['dyndbg="module xenbus +p"', ['xenbus']],
  ['xen_mtwatch dyndbg="module xen_blkback +p; module xen_netback =p" quiet', ['xen_blkback', 'xen_netback']],
  ['dyndbg=+p', modules],
  ['dyndbg="+p; module xenbus -p"', ['xen_blkback', 'xen_netback']],
  ['dyndbg="module xenbus +p; -p"', []],
  ['xen_blkback.dyndbg', ['xen_blkback']],
  ['xen-netback.dyndbg=+p', ['xen_netback']],
  ['xen_netback.dyndbg=-p', []],
  // What is not understood selects nothing.
  ['dyndbg="func connect +p"', []],
  ['dyndbg="module xenbus +x"', []],
  ['mydyndbg=+p', []],
])('%j: %j', (cmdline, on) => {
  expect(modules.filter(debugModules(cmdline))).toEqual(on);
});
