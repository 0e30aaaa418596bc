import { noAnswer, runDirOf, tryConnect, XlFailure } from '../../cli/session.js';
import { XlCommand } from '../../cli/xl-command.js';
import { identityOf, type RunDir, takeRight } from '../../xenbus/run-dir.js';

/** How long dom0 has to end, in milliseconds. */
const stopWaitMs = 10_000;

export default class Dom0Stop extends XlCommand {
  static override summary = 'Stop the embedded dom0';
  static override description = 'Stop the embedded dom0, and with it every guest. Says so and succeeds when there is none';
  static override examples = ['<%= config.bin %> dom0 stop'];

  async run(): Promise<void> {
    await this.parse(Dom0Stop);
    const dir = runDirOf(process.env);
    const xc = await tryConnect(dir);
    if (!xc) {
      process.stderr.write(`xl: no dom0 is running in ${dir.path}\n`);
      return;
    }
    const late = new Promise<'late'>((resolve) => setTimeout(() => resolve('late'), stopWaitMs).unref());
    if ((await Promise.race([xc.call('dom0.stop', {}), late])) === 'late') throw noAnswer(dir);
    const ended = await Promise.race([xc.closed, late]);
    xc.close();
    const { pid } = xc.server;
    if (ended === 'late' || !(await isGone(dir))) {
      throw new XlFailure(
        1,
        `xl: dom0 (pid ${pid}) has not ended in ${stopWaitMs / 1000} s; ${dir.log} may say why, \`kill -9 ${pid}\` ends it`,
      );
    }
  }
}

/**
 * The connection ends a little before the process does, and only when its right is free can another dom0 take its place.
 * A pid would not tell: it stays until somebody has collected the dead process.
 */
async function isGone(dir: RunDir): Promise<boolean> {
  const giveUp = performance.now() + stopWaitMs;
  while (performance.now() < giveUp && identityOf(dir.path) !== undefined) {
    const right = await takeRight(dir, 'dom0');
    right?.release();
    if (right) return true;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return identityOf(dir.path) === undefined;
}
