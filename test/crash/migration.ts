/**
 * A migration within one machine: what `xl migrate` and `xl migrate-receive` ask of libxl, in their order, by two toolstacks
 * with a pipe each way. The end of either closes its ends of the pipes, which the other one notices.
 */
import { LibxlError, Rc } from '../../src/libxl/ctx.js';
import { domainDestroy } from '../../src/libxl/destroy.js';
import { domainRename, domainUnpause } from '../../src/libxl/domain.js';
import type { DomainConfig } from '../../src/libxl/domain-config.js';
import { createDomain } from '../../src/libxl/monitor.js';
import { domainResume, domainSuspend } from '../../src/libxl/suspend.js';
import type { Toolstack } from '../toolstack.js';

/** Bytes that one process writes and another one reads, until there is an end. */
class Pipe {
  #bytes = Buffer.alloc(0);
  #isOpen = true;
  #arrived = () => {};

  write(bytes: Uint8Array): void {
    if (!this.#isOpen) throw new LibxlError(Rc.FAIL, 'Broken pipe');
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
    this.#arrived();
  }

  close(): void {
    this.#isOpen = false;
    this.#arrived();
  }

  /** As many bytes, or what there is before the end. */
  async read(count: number): Promise<Buffer> {
    while (this.#bytes.length < count && this.#isOpen) {
      await new Promise<void>((resolve) => {
        this.#arrived = resolve;
      });
    }
    const read = this.#bytes.subarray(0, count);
    this.#bytes = this.#bytes.subarray(count);
    return read;
  }

  /** A message of one byte. */
  async expect(message: string): Promise<void> {
    const got = (await this.read(1)).toString('latin1');
    if (got !== message) throw new LibxlError(Rc.FAIL, `read "${got}" instead of ${message}`);
  }
}

const [ready, go, done] = ['r', 'g', 'd'];
const bytesOf = (message: string) => Buffer.from(message, 'latin1');

/** Moves domain `domid`; resolves when both have ended, one of them by force perhaps. */
export async function migrate(sender: Toolstack, receiver: Toolstack, domid: number, config: DomainConfig): Promise<void> {
  const [there, back] = [new Pipe(), new Pipe()];
  const process = (toolstack: Toolstack, work: Promise<void>) => {
    const refusal = (error: unknown) => {
      if (!(error instanceof LibxlError)) throw error;
    };
    return Promise.race([work.catch(refusal), toolstack.ended]).finally(() => {
      there.close();
      back.close();
      toolstack.exit();
    });
  };
  const { name } = config.cInfo;

  const send = async () => {
    const { ctx } = sender;
    const away = `${name}--migratedaway`;
    try {
      await domainSuspend(ctx, domid, async (bytes) => there.write(bytes), { quiet: true });
      await back.expect(ready);
      await domainRename(ctx, domid, name, away);
    } catch (error) {
      if (!(error instanceof LibxlError)) throw error;
      return domainResume(ctx, domid);
    }
    // From here on the domain is the receiver's.
    there.write(bytesOf(go));
    await back.expect(done);
    await domainDestroy(ctx, domid);
  };

  const receive = async () => {
    const { ctx } = receiver;
    const incoming = `${name}--incoming`;
    const made = await createDomain(ctx, { ...config, cInfo: { ...config.cInfo, name: incoming } }, (count) => there.read(count));
    try {
      back.write(bytesOf(ready));
      await there.expect(go);
      await domainRename(ctx, made, incoming, name);
      await domainUnpause(ctx, made);
    } catch (error) {
      if (!(error instanceof LibxlError)) throw error;
      return domainDestroy(ctx, made);
    }
    back.write(bytesOf(done));
  };

  await Promise.all([process(sender, send()), process(receiver, receive())]);
}
