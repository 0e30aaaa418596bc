/**
 * The subcommands of xl that a dom0 without hardware cannot answer: what they are called, how they are used and what
 * is missing. They are listed where xl lists them, and each refuses.
 */

export interface Declined {
  readonly summary: string;
  /** Behind the command's name in its usage line, as xl spells it. */
  readonly usage: string;
  readonly modifies?: boolean;
  /** What there is not, as the end of "there is no ...". */
  readonly missing: string;
}

const pci = 'PCI device to pass through';
const flask = 'Flask security module';
const psr = 'processor with Platform Shared Resource features';
const qemu = 'device model (qemu)';

export const declined: Readonly<Record<string, Declined>> = {
  'pci-attach': {
    summary: 'Insert a new pass-through pci device',
    usage: '<Domain> <PCI_SPEC_STRING>',
    modifies: true,
    missing: pci,
  },
  'pci-detach': {
    summary: "Remove a domain's pass-through pci device",
    usage: '<Domain> <PCI_SPEC_STRING>',
    modifies: true,
    missing: pci,
  },
  'pci-list': { summary: 'List pass-through pci devices for a domain', usage: '<Domain>', missing: pci },
  'pci-assignable-add': {
    summary: 'Make a device assignable for pci-passthru',
    usage: '[options] <BDF>',
    modifies: true,
    missing: pci,
  },
  'pci-assignable-remove': {
    summary: 'Remove a device from being assignable',
    usage: '[options] <BDF>|NAME',
    modifies: true,
    missing: pci,
  },
  'pci-assignable-list': { summary: 'List all the assignable pci devices', usage: '[options]', missing: pci },
  vncviewer: { summary: "Attach to domain's VNC server.", usage: '[options] <Domain>', missing: 'display' },
  getenforce: {
    summary: 'Returns the current enforcing mode of the Flask Xen security module',
    usage: '',
    missing: flask,
  },
  setenforce: {
    summary: 'Sets the current enforcing mode of the Flask Xen security module',
    usage: '<1|0|Enforcing|Permissive>',
    modifies: true,
    missing: flask,
  },
  loadpolicy: {
    summary: 'Loads a new policy into the Flask Xen security module',
    usage: '<policy file>',
    modifies: true,
    missing: flask,
  },
  remus: {
    summary: 'Enable Remus HA for domain',
    usage: '[options] <Domain> [<host>]',
    modifies: true,
    missing: 'running state of a guest to copy again and again',
  },
  'psr-hwinfo': {
    summary: 'Show hardware information for Platform Shared Resource',
    usage: '[options]',
    modifies: true,
    missing: psr,
  },
  'psr-cmt-attach': {
    summary: 'Attach Cache Monitoring Technology service to a domain',
    usage: '<Domain>',
    modifies: true,
    missing: psr,
  },
  'psr-cmt-detach': {
    summary: 'Detach Cache Monitoring Technology service from a domain',
    usage: '<Domain>',
    modifies: true,
    missing: psr,
  },
  'psr-cmt-show': {
    summary: 'Show Cache Monitoring Technology information',
    usage: '<PSR-CMT-Type> <Domain>',
    modifies: true,
    missing: psr,
  },
  'psr-cat-set': {
    summary: 'Set cache capacity bitmasks(CBM) for a domain',
    usage: '[options] <Domain> <CBM>',
    modifies: true,
    missing: psr,
  },
  'psr-cat-show': {
    summary: 'Show Cache Allocation Technology information',
    usage: '[options] <Domain>',
    modifies: true,
    missing: psr,
  },
  'psr-mba-set': {
    summary: 'Set throttling value (THRTL) for a domain',
    usage: '[options] <Domain> <THRTL>',
    modifies: true,
    missing: psr,
  },
  'psr-mba-show': { summary: 'Show Memory Bandwidth Allocation information', usage: '<Domain>', modifies: true, missing: psr },
  'qemu-monitor-command': {
    summary: 'Issue a qemu monitor command to the device model of a domain',
    usage: '<Domain> <Command>',
    modifies: true,
    missing: qemu,
  },
};
