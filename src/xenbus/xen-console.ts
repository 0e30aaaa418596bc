/**
 * Xen's console: the ring that `xl dmesg` reads, what Xen says in it while it boots, and the debug keys that write to it
 * (xen/drivers/char/console.c and xen/common/keyhandler.c of 4.17).
 *
 * The ring has a size in characters and forgets its oldest ones. Places in it are counted from the boot on, so that a reader
 * goes on where it was. The boot text is that of the model: it names what this machine has, and no device that it has not.
 */
import { type MachineDescription, mbOf, schedulers, xenVersion } from './machine.js';

/** Characters kept: what Xen allocates for two processors. */
export const consoleRingSize = 16 * 1024;

export class XenConsole {
  #text = '';
  /** The place of the first character that is kept. */
  #first = 0;
  /** Readers that name no place begin here; to clear is to move it. */
  #start = 0;

  /** Prints lines, each with Xen's name in front. */
  print(text: string): void {
    for (const line of text.split('\n')) this.#text += `(XEN) ${line}\n`;
    const over = this.#text.length - consoleRingSize;
    if (over <= 0) return;
    this.#text = this.#text.slice(over);
    this.#first += over;
    this.#start = Math.max(this.#start, this.#first);
  }

  /**
   * XEN_SYSCTL_readconsole: what there is from `index` on, or from the start when that place is not in the ring any more, and
   * where to go on. With `clear` later readers do not see it again.
   */
  read({ index, clear }: { readonly index: number; readonly clear: boolean }): { text: string; index: number } {
    const end = this.#first + this.#text.length;
    const from = index > this.#start && index <= end ? index : this.#start;
    const text = this.#text.slice(from - this.#first);
    if (clear) this.#start = end;
    return { text, index: end };
  }
}

/** What Xen says of the machine that it boots on, and of the domain 0 that it makes. */
export function bootText(machine: MachineDescription): string {
  const { nrCpus, totalKb, nrNodes, dom0Kb, dom0Vcpus, xenScheduler, cpuKhz } = machine;
  return [
    `Xen version ${xenVersion(machine)} (modelled by xl-mtwatch)`,
    ...(machine.buildId === '' ? [] : [`build-id: ${machine.buildId}`]),
    `Command line: ${machine.xenCommandline}`,
    `System RAM: ${mbOf(totalKb)}MB (${totalKb}kB)`,
    ...(nrNodes === 1 ? ['No NUMA configuration found'] : [`${nrNodes} NUMA nodes, with equal shares of the memory`]),
    'Domain heap initialised',
    `Using scheduler: ${schedulers[xenScheduler] ?? xenScheduler} (${xenScheduler})`,
    `Detected ${Math.floor(cpuKhz / 1000)}.${String(cpuKhz % 1000).padStart(3, '0')} MHz processor.`,
    `Allocated console ring of ${consoleRingSize / 1024} KiB.`,
    `Brought up ${nrCpus} CPU${nrCpus === 1 ? '' : 's'}`,
    '*** Building a PV Dom0 ***',
    ` Dom0 has ${dom0Kb / pageKb} pages`,
    `Dom0 has maximum ${dom0Vcpus} VCPUs`,
    'Std. Loglevel: All',
    'Guest Loglevel: All',
  ].join('\n');
}

const pageKb = 4;

/** A domain as the key `q` shows it. */
export interface ShownDomain {
  readonly domid: number;
  readonly uuid: string;
  readonly dying: boolean;
  readonly pauseCount: number;
  readonly currentKb: number;
  readonly maxKb: number;
  readonly mappings: number;
  readonly maxVcpus: number;
  readonly onlineVcpus: number;
  readonly cpuTime: number;
  readonly eventChannels: number;
}

/** What keys are told about. */
export interface KeyContext {
  /** Nanoseconds since Xen booted. */
  readonly now: number;
  readonly domains: readonly ShownDomain[];
  readonly totalKb: number;
  readonly freeKb: number;
}

type KeyHandler = (key: string, context: KeyContext) => string;

/** The keys of a PV host without an IOMMU. Those without a handler are about what is not modelled, and say so. */
const keys: Readonly<Record<string, readonly [what: string, handler?: KeyHandler]>> = {
  '%': ['trap to xendbg'],
  '*': ['print all diagnostics'],
  '+': ['increase log level threshold'],
  '-': ['decrease log level threshold'],
  '0': ['dump Dom0 registers'],
  A: ['toggle alternative key handling'],
  G: ['toggle host/guest log level adjustment'],
  H: ['dump heap info'],
  I: ['dump HVM irq info'],
  M: ['dump MSI state'],
  N: ['trigger an NMI'],
  Q: ['dump PCI devices'],
  R: ['reboot machine'],
  a: ['dump timer queues'],
  c: ['dump ACPI Cx structures'],
  d: ['dump registers'],
  e: ['dump evtchn info', dumpEventChannels],
  g: ['print grant table usage', dumpGrants],
  h: ['show this message', showKeys],
  i: ['dump interrupt bindings'],
  m: ['memory info', dumpMemory],
  n: ['NMI statistics'],
  q: ['dump domain (and guest debug) info', dumpDomains],
  r: ['dump run queues'],
  s: ['dump softtsc stats'],
  t: ['display multi-cpu clock info'],
  u: ['dump NUMA info'],
  w: ['synchronously dump console ring buffer (dmesg)'],
  x: ['print livepatch info'],
  z: ['dump IOAPIC info'],
};

/** XEN_SYSCTL_debug_keys: acts on each key in turn. One that Xen has not is passed over in silence. */
export function pressKeys(ring: XenConsole, text: string, context: KeyContext): void {
  for (const key of text) {
    const known = Object.hasOwn(keys, key) ? keys[key] : undefined;
    if (!known) continue;
    const [what, handler] = known;
    ring.print(handler ? handler(key, context) : `'${key}' pressed -> ${what}: not modelled here`);
  }
}

function showKeys(key: string): string {
  const lines = Object.entries(keys)
    .map(([name, [what]]) => ({ code: name.charCodeAt(0), name, what }))
    .sort((a, b) => a.code - b.code)
    .map(({ code, name, what }) => ` key '${name}' (ascii '${code.toString(16).padStart(2, '0')}') => ${what}`);
  return [`'${key}' pressed -> showing installed handlers`, ...lines].join('\n');
}

function dumpDomains(key: string, { now, domains }: KeyContext): string {
  const lines = domains.flatMap((domain) => [
    `General information for domain ${domain.domid}:`,
    `    dying=${domain.dying ? 2 : 0} pause_count=${domain.pauseCount} mapped_pages=${domain.mappings}`,
    `    nr_pages=${domain.currentKb / pageKb} max_pages=${Math.floor(domain.maxKb / pageKb)}`,
    `    handle=${domain.uuid}`,
    `    vcpus=${domain.maxVcpus} online=${domain.onlineVcpus} time=${domain.cpuTime.toFixed(1)}s`,
  ]);
  return [`'${key}' pressed -> dumping domain info (now = ${now})`, ...lines].join('\n');
}

function dumpEventChannels(key: string, { domains }: KeyContext): string {
  const lines = domains.map(
    ({ domid, eventChannels }) => `Event channel information for domain ${domid}: ${eventChannels} ports`,
  );
  return [`'${key}' pressed -> dumping event-channel info`, ...lines].join('\n');
}

function dumpGrants(key: string, { domains }: KeyContext): string {
  const lines = domains.map(({ domid, mappings }) => `grant-table for remote d${domid}: ${mappings} pages mapped`);
  return [`'${key}' pressed -> showing grant table usage`, ...lines].join('\n');
}

function dumpMemory(key: string, { totalKb, freeKb }: KeyContext): string {
  return [`'${key}' pressed -> dumping memory information`, `    Dom heap: ${freeKb}kB free of ${totalKb}kB`].join('\n');
}
