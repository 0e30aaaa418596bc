/**
 * The file that `xl save` writes and `xl migrate` sends: xl's header, the domain's config, then libxl's stream.
 *
 * ```
 * "Xen saved domain, xl format\n \0 \r"         32 bytes
 * 0x01020304, mandatory flags, optional flags, length of the optional data     4 words, little endian
 * length of the config, the config                                             the optional data
 * ```
 *
 * Of the flags, 1 says that the config is JSON and 2 that the stream is of version 2. Lines and checks are those of
 * xl_saverestore.c, xl_vmcontrol.c and libxl_read_exactly of 4.17. The edge: it reads and writes descriptors.
 */
import { read as readAt, write as writeAt } from 'node:fs';
import { type Ctx, Rc } from '../libxl/ctx.js';
import { domainInfo } from '../libxl/domain.js';
import type { DomainConfig } from '../libxl/domain-config.js';
import { fromJson, toJson } from '../libxl/json.js';
import { retrieveConfig } from '../libxl/saved-config.js';
import type { ReadBytes } from '../libxl/stream.js';
import { type WriteBytes, WriteFailed } from '../libxl/suspend.js';
import { byteString } from '../xenbus/xs-client.js';
import { configOptions, parseOrFail, readConfigFile, readText } from './bring-up.js';
import { XlFailure } from './session.js';
import { readGlobalConfig, systemWords } from './xl-conf.js';

const magic = Buffer.from('Xen saved domain, xl format\n \0 \r', 'latin1');
const byteorderValue = 0x0102_0304;
const headerBytes = 48;
const flag = { json: 1, streamV2: 2 } as const;
/** Optional data that is read into memory; a config is far smaller, and the length comes from a file. */
const optionalMaxBytes = 64 << 20;

/** Where a stream comes from, by what messages call it. */
export interface Source {
  readonly name: string;
  readonly read: ReadBytes;
}

/** What a saved domain begins with. */
export interface SavedHeader {
  /** As it was saved; undefined when there is none. */
  readonly config: { readonly text: string; readonly isJson: boolean } | undefined;
}

/** Reads from a descriptor, in its order. A pipe that has nothing yet is asked again. */
export function readFrom(fd: number): ReadBytes {
  return async (count) => {
    const bytes = Buffer.alloc(count);
    let got = 0;
    while (got < count) {
      const more = await retrying(
        () =>
          new Promise<number>((done, failed) => {
            readAt(fd, bytes, got, count - got, null, (error, n) => (error ? failed(error) : done(n)));
          }),
      );
      if (more === 0) break;
      got += more;
    }
    return bytes.subarray(0, got);
  };
}

/** Writes to a descriptor; the system's refusal is a WriteFailed. */
export function writeTo(fd: number): WriteBytes {
  return async (bytes) => {
    try {
      for (let put = 0; put < bytes.length; ) {
        put += await retrying(
          () =>
            new Promise<number>((done, failed) => {
              writeAt(fd, bytes, put, bytes.length - put, null, (error, n) => (error ? failed(error) : done(n)));
            }),
        );
      }
    } catch (error) {
      throw writeFailed(error);
    }
  };
}

/** Between two tries of a descriptor that would block. */
const againMs = 5;

async function retrying(attempt: () => Promise<number>): Promise<number> {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) throw error;
      await new Promise((next) => setTimeout(next, againMs));
    }
  }
}

export function writeFailed(error: unknown): WriteFailed {
  if (!(error instanceof Error && 'errno' in error)) return new WriteFailed(32, 'Broken pipe');
  return new WriteFailed(Math.abs(Number(error.errno)), systemWords(error));
}

/** The end of xl by CHK_ERRNOVAL, with libxl's line before it. */
function fatal(ctx: Pick<Ctx, 'log'>, line: string, at: string, words: string, call: string): XlFailure {
  const name = call.startsWith('libxl_read') ? '505:libxl_read_exactly' : '506:libxl_write_exactly';
  ctx.log('error', `libxl_utils.c:${name}`, undefined, line);
  return new XlFailure(1, `xl: fatal error: ${at}: ${words}: ${call}`);
}

/** Exactly so many bytes, or xl ends with the line of libxl_read_exactly. */
async function need(ctx: Pick<Ctx, 'log'>, { name, read }: Source, count: number, what: string, at: string, call: string) {
  let bytes: Buffer;
  try {
    bytes = await read(count);
  } catch (error) {
    const words = systemWords(error);
    throw fatal(ctx, `failed to read ${what} from ${name}: ${words}`, at, words, call);
  }
  if (bytes.length < count) {
    throw fatal(ctx, `file/stream truncated reading ${what} from ${name}`, at, 'Protocol error', call);
  }
  return bytes;
}

/** Reads xl's header and the config behind it, and says so. */
export async function readHeader(ctx: Pick<Ctx, 'log'>, source: Source): Promise<SavedHeader> {
  const asked = 'libxl_read_exactly( ctx, restore_fd, &hdr, sizeof(hdr), restore_source, "header")';
  const header = await need(ctx, source, headerBytes, 'header', 'xl_vmcontrol.c:713', asked);
  if (!header.subarray(0, magic.length).equals(magic)) {
    throw new XlFailure(-Rc.INVAL, 'File has wrong magic number - corrupt or for a different tool?');
  }
  if (header.readUInt32LE(32) !== byteorderValue) throw new XlFailure(-Rc.INVAL, 'File has wrong byte order');
  const [mandatory, optional, length] = [header.readUInt32LE(36), header.readUInt32LE(40), header.readUInt32LE(44)];
  say(`Loading new save file ${source.name} (new xl fmt info ${info(mandatory, optional, length)})`);
  const unknown = (mandatory & ~(flag.json | flag.streamV2)) >>> 0;
  if (unknown !== 0) {
    throw new XlFailure(
      -Rc.INVAL,
      `Savefile has mandatory flag(s) 0x${unknown.toString(16)} which are not supported; need newer xl`,
    );
  }
  if (length === 0) return { config: undefined };
  if (length > optionalMaxBytes) throw new XlFailure(1, `xl: ${source.name}: a config of ${length} bytes is none`);
  const call = 'libxl_read_exactly( ctx, restore_fd, optdata_begin, hdr.optional_data_len, restore_source, "optdata")';
  const data = await need(ctx, source, length, 'optdata', 'xl_vmcontrol.c:740', call);
  const isJson = (mandatory & flag.json) !== 0;
  say(` Savefile contains xl domain config${isJson ? ' in JSON format' : ''}`);
  if (data.length < 4) throw new XlFailure(-Rc.INVAL, 'Savefile truncated.');
  const configLength = data.readUInt32LE(0);
  if (data.length - 4 < configLength) throw new XlFailure(-Rc.INVAL, 'Savefile truncated.');
  const text = data
    .subarray(4, 4 + configLength)
    .toString('latin1')
    .replace(/\0[\s\S]*$/, '');
  return { config: { text, isJson } };
}

/** The config for a domain that is restored: that of a file, or the saved one. Says where it is from. */
export async function configOf({ config: saved }: SavedHeader, file?: string): Promise<DomainConfig> {
  if (file !== undefined) {
    const text = await readConfigFile(file);
    say(`Parsing config from ${file}`);
    return parseOrFail(text, [], file, configOptions(await readGlobalConfig(process.env))).config;
  }
  if (!saved) throw new XlFailure(-Rc.INVAL, 'Config file not specified and none in save file');
  say('Parsing config from <saved>');
  if (!saved.isJson) return parseOrFail(saved.text, [], '<saved>', configOptions(await readGlobalConfig(process.env))).config;
  try {
    return fromJson(saved.text);
  } catch (error) {
    throw new XlFailure(-Rc.FAIL, `xl: the saved config is not one: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/**
 * The config that a saved domain has with it, as JSON with its NUL: that of the domain, or of a file. `stale` is the errno
 * that libxl prints where there is no such domain: it has none, and prints what an earlier call has left.
 */
export async function configToSend(
  ctx: Ctx,
  domid: number,
  { keepDomid, file, stale }: { readonly keepDomid: boolean; readonly file: string | undefined; readonly stale: string },
): Promise<{ readonly config: DomainConfig; readonly bytes: Buffer }> {
  const config = file === undefined ? await ofDomain(ctx, domid, keepDomid, stale) : await ofFile(file);
  const json = file === undefined ? byteString(toJson(config)) : toJson(config);
  return { config, bytes: Buffer.from(`${json}\0`, 'latin1') };
}

async function ofFile(file: string): Promise<DomainConfig> {
  const text = await readText(file).catch((error: unknown) => {
    if (error instanceof XlFailure && error.exit === 1) throw error;
    throw new XlFailure(1, 'unable to read overridden config file');
  });
  return parseOrFail(text, [], file, configOptions(await readGlobalConfig(process.env))).config;
}

async function ofDomain(ctx: Ctx, domid: number, keepDomid: boolean, stale: string): Promise<DomainConfig> {
  const found = await domainInfo(ctx, domid);
  if (!found) noDomainInfo(ctx, domid, stale);
  const config = found ? await retrieveConfig(ctx, domid) : undefined;
  if (!config) throw new XlFailure(1, 'unable to retrieve domain configuration');
  const { domid: _, ...cInfo } = config.cInfo;
  return { ...config, cInfo: keepDomid ? { ...cInfo, domid } : cInfo };
}

/** libxl's line where there is no domain to keep data of. It ends with an errno that it has not set. */
export function noDomainInfo(ctx: Pick<Ctx, 'log'>, domid: number, stale: string): void {
  const line = `unable to find domain info for domain ${domid}: ${stale}`;
  ctx.log('error', 'libxl_dom.c:1216:libxl__userdata_path', undefined, line);
}

/** Writes xl's header and the config, and says so. */
export async function writeHeader(ctx: Pick<Ctx, 'log'>, write: WriteBytes, name: string, config: Buffer): Promise<void> {
  const header = Buffer.alloc(headerBytes);
  magic.copy(header);
  const mandatory = flag.streamV2 | flag.json;
  const length = 4 + config.length;
  header.writeUInt32LE(byteorderValue, 32);
  header.writeUInt32LE(mandatory, 36);
  header.writeUInt32LE(length, 44);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(config.length);
  const parts: readonly (readonly [Buffer, number, string])[] = [
    [header, 112, 'libxl_write_exactly( ctx, fd, &hdr, sizeof(hdr), source, "header")'],
    [Buffer.concat([size, config]), 114, 'libxl_write_exactly( ctx, fd, optdata_begin, hdr.optional_data_len, source, "header")'],
  ];
  for (const [bytes, line, call] of parts) {
    try {
      await write(bytes);
    } catch (error) {
      if (!(error instanceof WriteFailed)) throw error;
      throw fatal(ctx, `failed to write header from ${name}: ${error.words}`, `xl_saverestore.c:${line}`, error.words, call);
    }
  }
  say(`Saving to ${name} new xl format (info ${info(mandatory, 0, length)})`);
}

function info(mandatory: number, optional: number, length: number): string {
  return `0x${mandatory.toString(16)}/0x${optional.toString(16)}/${length}`;
}

export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}
