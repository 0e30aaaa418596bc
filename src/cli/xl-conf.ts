/**
 * Where xl.conf is found, and bytes at the edge of the process.
 *
 * A real xl reads `/etc/xen/xl.conf` and complains when it is missing. Here it is `xl.conf` in the directory that
 * `XEN_CONFIG_DIR` names; without the variable there is none, and nobody complains.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { type GlobalConfig, globalDefaults, parseGlobalConfig } from '../libxl/global-config.js';
import { XlFailure } from './session.js';

/** The processors of the host that is modelled, as in `xl info`. */
const pcpus = 2;

let whole: Promise<GlobalConfig> | undefined;

/**
 * What xl.conf says. It is read once, before any command; its complaints go to stderr, and what ends xl is thrown.
 */
export function readGlobalConfig(env: NodeJS.ProcessEnv): Promise<GlobalConfig> {
  whole ??= readFrom(env);
  return whole;
}

async function readFrom(env: NodeJS.ProcessEnv): Promise<GlobalConfig> {
  const directory = env['XEN_CONFIG_DIR'];
  if (!directory) return globalDefaults;
  const file = path.join(directory, 'xl.conf');
  let text: string;
  try {
    text = await readFile(file, 'latin1');
  } catch (error) {
    process.stderr.write(`Failed to read config file: ${file}: ${systemWords(error)}\n`);
    return globalDefaults;
  }
  const { global, stderr, exit } = parseGlobalConfig(text, bytesOfText(file), pcpus);
  writeBytes(process.stderr, stderr);
  if (!global) throw new XlFailure(exit);
  return global;
}

/** What strerror(3) says of what the system refused. */
export function systemWords(error: unknown): string {
  const why = error instanceof Error && 'code' in error ? String(error.code) : String(error);
  const words: Readonly<Record<string, string>> = {
    ENOENT: 'No such file or directory',
    EACCES: 'Permission denied',
    EISDIR: 'Is a directory',
    ENOTDIR: 'Not a directory',
    ELOOP: 'Too many levels of symbolic links',
    ENAMETOOLONG: 'File name too long',
    EPIPE: 'Broken pipe',
    ENOSPC: 'No space left on device',
    EROFS: 'Read-only file system',
    EIO: 'Input/output error',
    EBADF: 'Bad file descriptor',
    EINVAL: 'Invalid argument',
    ECONNRESET: 'Connection reset by peer',
  };
  return words[why] ?? why;
}

/** A text as the bytes that a C program would have of it, one character for each: what libxl is made of here. */
export function bytesOfText(text: string): string {
  return Buffer.from(text, 'utf8').toString('latin1');
}

/** Writes bytes, one from each character. */
export function writeBytes(stream: NodeJS.WriteStream, bytes: string): void {
  if (bytes !== '') stream.write(Buffer.from(bytes, 'latin1'));
}
