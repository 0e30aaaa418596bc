import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import type { XlLayout } from '../cli/argv.js';
import { byQualifier, operandsOf, printListing } from '../cli/device-command.js';
import { XlCommand } from '../cli/xl-command.js';
import type { Ctx } from '../libxl/ctx.js';
import { type ListedPcm, type ListedStream, type ListedVsnd, listVsnds, type SoundParams } from '../libxl/device-list.js';

export default class VsndList extends XlCommand {
  // So it says: xl's table has the displays' text here.
  static override summary = 'List virtual display devices for a domain';
  static override examples = ['<%= config.bin %> vsnd-list web', '<%= config.bin %> vsnd-list --json web'];
  static override args = {
    domains: Args.string({ required: true, multiple: true, ignoreStdin: true, description: 'names or domids' }),
  };
  static override flags = { json: Flags.boolean({ default: false, description: 'print JSON' }) };
  static override xl: XlLayout = { usage: '<Domain(s)>', options: '' };

  async run(): Promise<void> {
    const { raw, flags } = await this.parse(VsndList);
    await printListing(this, flags, operandsOf(raw), { lookup: byQualifier, rows: cards, text: cardText });
  }
}

interface Row extends ListedVsnd {
  readonly frontendDomid: number;
}

async function cards(ctx: Ctx, domid: number): Promise<readonly Row[]> {
  return ((await listVsnds(ctx, domid)) ?? []).map((card) => ({ ...card, frontendDomid: domid }));
}

function cardText({
  devid,
  backendDomid,
  frontendDomid,
  state,
  backend,
  frontend,
  shortName,
  longName,
  params,
  pcms,
}: Row): string {
  const head = `\ndevid: ${devid}, be-domid: ${backendDomid}, handle: ${frontendDomid}, state: ${state}`;
  const names = `short-name: "${shortName ?? '(null)'}", long-name: "${longName ?? '(null)'}"`;
  const lines = [`${head}, be-path: ${backend}, fe-path: ${frontend}\n`, `${names}${paramsText(params)}\n`, ...pcms.map(pcmText)];
  return lines.join('');
}

function pcmText({ name, params, streams }: ListedPcm, index: number): string {
  return `\tpcm: ${index}, name: "${name ?? '(null)'}"${paramsText(params)}\n${streams.map(streamText).join('')}`;
}

function streamText({ uniqueId, type, params, evtch, rref }: ListedStream, index: number): string {
  const what = `\t\tstream: ${index}, unique-id: "${uniqueId ?? '(null)'}", type: ${type ?? '(null)'}`;
  return `${what}${paramsText(params)}\n\t\t\tevent-channel: ${evtch}, ring-ref: ${rref}\n`;
}

/** What is set of it. The formats stand under the name of the rates, as xl has them. */
function paramsText({ channelsMin, channelsMax, bufferSize, sampleRates, sampleFormats }: SoundParams): string {
  return [
    channelsMin ? `, channels-min: ${channelsMin}` : '',
    channelsMax ? `, channels-max: ${channelsMax}` : '',
    bufferSize ? `, buffer-size: ${bufferSize}` : '',
    sampleRates.length > 0 ? `, sample-rates: ${sampleRates.join(';')}` : '',
    sampleFormats.length > 0 ? `, sample-rates: ${sampleFormats.join(';')}` : '',
  ].join('');
}
