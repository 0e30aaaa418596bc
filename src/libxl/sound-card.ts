/**
 * Sound cards: `vsnd=[[ "card,...", "pcm,...", "stream,..." ], ...]`, read with xl's complaints, and kept as JSON.
 *
 * A `pcm` opens a device of the card, a `stream` belongs to the last device.
 */
import { killedBy, strtok } from './c-text.js';
import type { JsonObject, JsonValue } from './json.js';
import { asUint32 } from './strtol.js';
import { type CfgReader, type CfgValue, getList, warnOfItem } from './xl-cfg.js';
import { exitXl } from './xl-exit.js';

const pcmFormats = [
  ...['s8', 'u8', 's16_le', 's16_be', 'u16_le', 'u16_be', 's24_le', 's24_be', 'u24_le', 'u24_be', 's32_le', 's32_be'],
  ...['u32_le', 'u32_be', 'f32_le', 'f32_be', 'f64_le', 'f64_be', 'iec958_subframe_le', 'iec958_subframe_be', 'mu_law'],
  ...['a_law', 'ima_adpcm', 'mpeg', 'gsm'],
];

type Params = Record<string, JsonValue>;

/** xl has made a list of nothing. */
class Died extends Error {
  override readonly name = 'Died';
}

interface Card {
  readonly names: Record<string, string>;
  readonly params: Params;
  readonly pcms: Pcm[];
}
interface Pcm {
  name?: string;
  readonly params: Params;
  readonly streams: Stream[];
}
interface Stream {
  uniqueId?: string;
  type?: string;
  readonly params: Params;
}

export function readSoundCards(reader: CfgReader): readonly JsonObject[] {
  return (getList(reader, 'vsnd') ?? []).map((value, devid) => {
    const card: Card = { names: {}, params: {}, pcms: [] };
    for (const item of itemsOf(reader, value)) {
      const errors = trySoundItem(card, item);
      if (errors === 'died') exitXl(reader, killedBy.segv);
      if (errors) exitXl(reader, 1, ...errors);
    }
    return cardJson(card, devid);
  });
}

/** A card given in words, as `xl vsnd-attach` has it; or what xl says instead. */
export function parseSoundCard(
  words: readonly string[],
): { readonly card: JsonObject } | { readonly errors: readonly string[]; readonly exit: number } {
  const card: Card = { names: {}, params: {}, pcms: [] };
  for (const word of words) {
    const errors = trySoundItem(card, word);
    if (errors === 'died') return { errors: [], exit: killedBy.segv };
    if (errors) return { errors, exit: 1 };
  }
  return { card: cardJson(card, undefined) };
}

function itemsOf(reader: CfgReader, value: CfgValue): readonly string[] {
  if (value.kind !== 'list') {
    warnOfItem(reader, value, 'value is not a list');
    return exitXl(reader, 1, 'Failed to get vsnd card list: Invalid argument');
  }
  const end = value.items.findIndex(({ kind }) => kind !== 'string');
  return value.items.slice(0, end < 0 ? undefined : end).flatMap((item) => (item.kind === 'string' ? [item.text] : []));
}

function trySoundItem(card: Card, text: string): readonly string[] | 'died' | undefined {
  try {
    return readSoundItem(card, text);
  } catch (error) {
    if (error instanceof Died) return 'died';
    throw error;
  }
}

/** Takes `card,...`, `pcm,...` or `stream,...`; xl's complaint if it is none. */
function readSoundItem(card: Card, text: string): readonly string[] | undefined {
  const [key, ...params] = strtok(text, ',').map((token) => token.replace(/^ +/, ''));
  if (key === undefined) return undefined;
  const kind = key.toLowerCase();
  if (kind === 'pcm') card.pcms.push({ params: {}, streams: [] });
  else if (kind === 'stream') {
    if (card.pcms.length === 0) card.pcms.push({ params: {}, streams: [] });
    card.pcms.at(-1)?.streams.push({ params: {} });
  } else if (kind !== 'card') return [`Invalid key: ${key}`];
  for (const param of params) {
    const error = readParam(card, kind, param);
    if (error !== undefined) return [error];
  }
  return undefined;
}

function readParam(card: Card, kind: string, param: string): string | undefined {
  const pcm = card.pcms.at(-1);
  const stream = pcm?.streams.at(-1);
  const target = kind === 'card' ? card : kind === 'pcm' ? pcm : stream;
  const common = target ? readCommonParam(target.params, param) : undefined;
  if (common?.dies) throw new Died();
  if (common) return common.error;
  const value = (key: string) => (param.startsWith(`${key}=`) ? param.slice(key.length + 1) : undefined);
  if (kind === 'card') {
    for (const name of ['backend', 'short-name', 'long-name']) {
      const text = value(name);
      if (text === undefined) continue;
      card.names[name] = text;
      return undefined;
    }
  } else if (kind === 'pcm') {
    const name = value('name');
    if (pcm && name !== undefined) {
      pcm.name = name;
      return undefined;
    }
  } else if (stream) {
    const uniqueId = value('unique-id');
    if (uniqueId !== undefined) {
      stream.uniqueId = uniqueId;
      return undefined;
    }
    const type = value('type');
    if (type !== undefined) {
      if (!['p', 'c'].includes(type.toLowerCase())) return `Invalid stream type: ${type}`;
      stream.type = type.toLowerCase();
      return undefined;
    }
  }
  return `Invalid parameter: ${param}`;
}

const numbers: Readonly<Record<string, string>> = {
  'channels-min': 'channels_min',
  'channels-max': 'channels_max',
  'buffer-size': 'buffer_size',
};

/** What cards, devices and streams have alike; undefined if it is nothing of that. Of a list of nothing xl dies. */
function readCommonParam(params: Params, param: string): { readonly error?: string; readonly dies?: boolean } | undefined {
  const equals = param.indexOf('=');
  if (equals < 0) return undefined;
  const [key, value] = [param.slice(0, equals), param.slice(equals + 1)];
  if (key === 'sample-rates') {
    if (strtok(value, ';').length === 0) return { dies: true };
    params['sample_rates'] = strtok(value, ';').map((rate) => asUint32(rate));
  } else if (key === 'sample-formats') {
    const formats = strtok(value, ';').map((format) => format.toLowerCase());
    if (formats.length === 0) return { dies: true };
    const bad = formats.findIndex((format) => !pcmFormats.includes(format));
    if (bad >= 0) return { error: `Invalid pcm format: ${strtok(value, ';')[bad]}` };
    params['sample_formats'] = formats;
  } else {
    const field = Object.hasOwn(numbers, key) ? numbers[key] : undefined;
    if (field === undefined) return undefined;
    params[field] = asUint32(value);
  }
  return {};
}

const paramOrder = ['sample_rates', 'sample_formats', 'channels_min', 'channels_max', 'buffer_size'];

function paramsJson(params: Params): JsonObject {
  return Object.fromEntries(paramOrder.flatMap((name) => (params[name] ? [[name, params[name]]] : [])));
}

function cardJson({ names, params, pcms }: Card, devid: number | undefined): JsonObject {
  const named = (field: string, key: string) => (names[key] === undefined ? {} : { [field]: names[key] });
  return {
    ...named('backend_domname', 'backend'),
    ...(devid === undefined ? {} : { devid }),
    ...named('short_name', 'short-name'),
    ...named('long_name', 'long-name'),
    params: paramsJson(params),
    ...(pcms.length === 0 ? {} : { pcms: pcms.map(pcmJson) }),
  };
}

function pcmJson({ name, params, streams }: Pcm): JsonObject {
  return {
    ...(name === undefined ? {} : { name }),
    params: paramsJson(params),
    ...(streams.length === 0 ? {} : { streams: streams.map(streamJson) }),
  };
}

function streamJson({ uniqueId, type, params }: Stream): JsonObject {
  return {
    ...(uniqueId === undefined ? {} : { unique_id: uniqueId }),
    ...(type === undefined ? {} : { type }),
    params: paramsJson(params),
  };
}
