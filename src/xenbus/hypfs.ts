/**
 * Xen's parameters that can be set while it runs: what `xl set-parameters` writes below `/params` of hypfs.
 *
 * Names and forms of values are those of Xen 4.17. A value is kept, and it is all that there is: nothing modelled here logs
 * less, or has fewer grant frames, because of one. Whoever sets one is told so on Xen's console.
 */
import { PrivcmdError } from './privcmd.js';

const level = '(none|error|warning|info|debug|all)';
const levels = new RegExp(`^${level}?(/${level}?)?$`);
const bool = /^(no|off|false|disable|0|yes|on|true|enable|1)$/;
const anything = /^/;

/** By name: what a value must look like. */
const parameters: Readonly<Record<string, RegExp>> = {
  console_timestamps: /^(|none|date|datems|boot|raw|no|off|false|disable|0|yes|on|true|enable|1)$/,
  conswitch: anything,
  'crash-debug-debugkey': anything,
  'crash-debug-hwdom': anything,
  'crash-debug-kexeccmd': anything,
  'crash-debug-panic': anything,
  'crash-debug-watchdog': anything,
  'global-pages': bool,
  gnttab_max_frames: /^(0x[0-9a-f]+|\d+)$/i,
  gnttab_max_maptrack_frames: /^(0x[0-9a-f]+|\d+)$/i,
  guest_loglvl: levels,
  loglvl: levels,
  pcid: /^(xpti|noxpti|no|off|false|disable|0|yes|on|true|enable|1)$/,
};

const intMax = 0x7fff_ffff;

export class Hypfs {
  readonly #values = new Map<string, string>();

  /** Sets a parameter: ENOENT for one that Xen has not; EINVAL, ERANGE and, of a switch, EDOM for what is no value of it. */
  write(path: string, value: string): void {
    const name = path.startsWith('/params/') ? path.slice('/params/'.length) : '';
    const like = Object.hasOwn(parameters, name) ? parameters[name] : undefined;
    if (!like) throw new PrivcmdError('ENOENT', `no parameter ${path}`);
    if (!like.test(value)) throw new PrivcmdError(like === bool ? 'EDOM' : 'EINVAL', `${name} cannot be "${value}"`);
    if (name.startsWith('gnttab_') && Number(value) > intMax) throw new PrivcmdError('ERANGE', `${name}: ${value} is too large`);
    this.#values.set(name, value);
  }

  /** What was set; undefined for what is as it was at the boot. */
  read(name: string): string | undefined {
    return this.#values.get(name);
  }
}
