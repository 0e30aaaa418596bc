/**
 * What a person at a terminal sees while libxl waits: the step, what it waits for, and the seconds that are left.
 *
 * Nothing is shown before half a second has passed, and nothing at all where stderr is no terminal.
 */
import type { Ora } from 'ora';
import type { Progress, Wait } from '../libxl/ctx.js';
import { parseDomid } from '../xenbus/paths.js';

/** Waits that are over sooner are not worth a line. */
export const quietMs = 500;
const redrawMs = 250;

export interface Spinner {
  readonly progress: Progress;
  /** Prints a whole line on stderr, above what is shown. */
  print(line: string): void;
}

/** Follows libxl's waits on a terminal of stderr; undefined where there is none. */
export function spinnerOn(stream: NodeJS.WriteStream): Spinner | undefined {
  // A terminal that does not say how wide it is would have its spinner cleared line by line, without an end.
  if (!stream.isTTY || !(stream.columns > 0)) return undefined;
  /** With the time at which each gives up. */
  const waits = new Map<Wait, number>();
  let step = '';
  let timer: NodeJS.Timeout | undefined;
  let ora: Ora | undefined;
  let loading = false;

  const draw = () => {
    const next = [...waits].sort(([, a], [, b]) => a - b)[0];
    if (!next) return;
    const [wait, deadline] = next;
    const text = progressText(step, wait, deadline - performance.now(), waits.size - 1);
    if (ora) {
      ora.text = text;
      if (!ora.isSpinning) ora.start();
    } else if (!loading) {
      loading = true;
      void import('ora').then((module) => {
        ora = module.default({ stream, discardStdin: false });
        draw();
      });
    }
  };
  const rest = () => {
    clearInterval(timer);
    timer = undefined;
    ora?.stop();
  };

  return {
    progress: {
      step: (name) => {
        step = name;
      },
      wait: (wait) => {
        waits.set(wait, performance.now() + (wait.timeoutMs ?? Number.POSITIVE_INFINITY));
        if (!timer) {
          timer = setTimeout(() => {
            draw();
            timer = setInterval(draw, redrawMs);
          }, quietMs);
        }
        return () => {
          waits.delete(wait);
          if (waits.size === 0) rest();
        };
      },
    },
    print: (line) => {
      const shown = ora?.isSpinning;
      if (shown) ora?.stop();
      stream.write(`${line}\n`);
      if (shown) ora?.start();
    },
  };
}

/** `removing devices: waiting for the backend of vif 0 of domain 1 (8 s left), and 2 more`. */
export function progressText(step: string, wait: Wait, leftMs: number, more: number): string {
  const left = Number.isFinite(leftMs) ? ` (${Math.max(0, Math.ceil(leftMs / 1000))} s left)` : '';
  const others = more > 0 ? `, and ${more} more` : '';
  return `${stepWords[step] ? `${stepWords[step]}: ` : ''}waiting for ${waitWords(wait.on)}${left}${others}`;
}

/** What libxl's steps are about, of those that wait. */
const stepWords: Readonly<Record<string, string>> = {
  libxl__add_disks: 'adding disks',
  domcreate_attach_devices: 'adding interfaces',
  console_xswait_callback: 'starting the console',
  libxl__devices_destroy: 'removing devices',
};

/** What a path stands for, to a person. */
export function waitWords(on: string): string {
  const [, home, domain, owner, ...rest] = on.split('/');
  if (home !== 'local' || domain !== 'domain' || owner === undefined) return on;
  const [what, kind, frontend, devid, node] = rest;
  if (what === 'backend' && frontend !== undefined && parseDomid(frontend) !== undefined && devid !== undefined) {
    return `the backend of ${kind} ${devid} of domain ${frontend}${node === undefined ? ' to go' : ''}`;
  }
  if (what === 'console' && kind === 'tty') return `the console of domain ${owner}`;
  if (what === 'control' && kind === 'shutdown') return `domain ${owner} to take its shutdown request`;
  return on;
}
