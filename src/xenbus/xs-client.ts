/** A XenStore client: requests by number, answers by promise, events by watch. */
import type { Perm } from './xs-wire.js';

/** Requests that may stand inside a transaction. Missing nodes are an answer, not an error. */
export interface XsRequests {
  /** The value, or undefined when the node is missing. */
  read(path: string): Promise<string | undefined>;
  /** Children in the server's order, or undefined when the node is missing. Long lists come in parts. */
  directory(path: string): Promise<string[] | undefined>;
  write(path: string, value: string): Promise<void>;
  mkdir(path: string): Promise<void>;
  /** False when there was nothing to remove. */
  rm(path: string): Promise<boolean>;
  getPerms(path: string): Promise<Perm[] | undefined>;
  setPerms(path: string, perms: readonly Perm[]): Promise<void>;
}

export interface XsWatch {
  readonly path: string;
  readonly token: string;
  /** Stops it; no event is delivered after this was called. */
  close(): Promise<void>;
}

export interface XsTransaction extends XsRequests {
  readonly id: number;
}

/** What libxl, xenconsoled and the monitors know of the store. Every other failure is thrown as `XsError`. */
export interface Xs extends XsRequests {
  /**
   * Runs `body` in a transaction and commits; all over again on EAGAIN. `body` may end it early by returning
   * `abort`, which throws the writes away and is returned.
   */
  transaction<T>(body: (tx: XsTransaction) => Promise<T | typeof abort>): Promise<T | typeof abort>;
  /** Registers a watch; `onEvent` gets the path of each event, beginning with the one that registering causes. */
  watch(path: string, onEvent: (path: string) => void, token?: string): Promise<XsWatch>;
  getDomainPath(domid: number): Promise<string>;
  introduce(domid: number, mfn: number, port: number): Promise<void>;
  release(domid: number): Promise<void>;
  isDomainIntroduced(domid: number): Promise<boolean>;
  close(): void;
}

/** Returned by a transaction's body to end it without a commit. */
export const abort: unique symbol = Symbol('abort');
