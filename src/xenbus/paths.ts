/**
 * XenStore paths: the one place where they are checked, put together and taken apart.
 *
 * Limits as the C server of 4.17 has them: 2048 bytes after `/local/domain/N/`, or in all.
 */
import { XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX } from './xs-wire.js';

declare const checked: unique symbol;
/** An absolute path that passed `checkPath`. */
export type XsPath = string & { readonly [checked]: true };

const allowed = /^[A-Za-z0-9\-/_@]+$/;
/** As the C server's `sscanf("/local/domain/%5u/")` takes it: five characters at most, the sign among them. */
const domainPrefix = /^\/local\/domain\/(?:\d{1,5}|-\d{1,4})\//;

/** Whether `text`, absolute or relative, can name a node. `@` names are for watches alone. */
export function isValidPath(text: string, relativeMax: number = XENSTORE_REL_PATH_MAX): boolean {
  if (text === '/') return true;
  if (!allowed.test(text) || text.endsWith('/') || text.includes('//')) return false;
  if (text.length <= relativeMax) return true;
  return text.length <= XENSTORE_ABS_PATH_MAX && text.replace(domainPrefix, '').length <= relativeMax;
}

/** `text` as a path, or undefined. */
export function checkPath(text: string, relativeMax?: number): XsPath | undefined {
  return text.startsWith('/') && isValidPath(text, relativeMax) ? (text as XsPath) : undefined;
}

/** Makes the path of a connection of domain `domid` absolute: relative ones lie below its home, `@` names stay. */
export function canonical(text: string, domid: number): string {
  return text.startsWith('/') || text.startsWith('@') ? text : `${domainPath(domid)}/${text}`;
}

export function parentPath(path: string): XsPath {
  const slash = path.lastIndexOf('/');
  return (slash <= 0 ? '/' : path.slice(0, slash)) as XsPath;
}

export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** `dir` and `name` as one path. */
export function join(dir: string, ...names: readonly (string | number)[]): XsPath {
  return [dir === '/' ? '' : dir, ...names].join('/') as XsPath;
}

/** Whether `path` is `dir` or lies below it. */
export function isWithin(path: string, dir: string): boolean {
  return dir === '/' || path === dir || (path.startsWith(dir) && path[dir.length] === '/');
}

export function domainPath(domid: number): XsPath {
  return `/local/domain/${domid}` as XsPath;
}

export function mtwatchPath(domid: number): XsPath {
  return `/local/domain/0/mtwatch/${domid}` as XsPath;
}

export function libxlPath(domid: number): XsPath {
  return `/libxl/${domid}` as XsPath;
}

export function vmPath(uuid: string): XsPath {
  return `/vm/${uuid}` as XsPath;
}

/** Where a device's nodes lie: backend in `backendDomid`, frontend in `domid`, libxl's own copy. */
export interface DevicePaths {
  readonly frontend: XsPath;
  readonly backend: XsPath;
  readonly libxl: XsPath;
}

/**
 * `console` 0 has its frontend in `/local/domain/N/console`; every other device below `device/KIND/DEVID`.
 */
export function devicePaths(domid: number, backendDomid: number, kind: string, devid: number): DevicePaths {
  const home = domainPath(domid);
  return {
    frontend: kind === 'console' && devid === 0 ? join(home, 'console') : join(home, 'device', kind, devid),
    backend: join(domainPath(backendDomid), 'backend', kind, domid, devid),
    libxl: join(libxlPath(domid), 'device', kind, devid),
  };
}

/** A domid as it is spelt in a path: no sign, no leading zero, at most 32751; undefined for all else. */
export function parseDomid(text: string | undefined): number | undefined {
  if (text === undefined || !/^(0|[1-9]\d{0,4})$/.test(text)) return undefined;
  const domid = Number(text);
  return domid < 0x7ff0 ? domid : undefined;
}
