/**
 * How our server may differ from C xenstored: the whole list, each with its reason. docs/xenstore-conformance.md has the
 * same list for whoever writes a client.
 *
 * A difference that is not in here is a defect of one of the servers, or of this table.
 */
import { type Operation, types } from './operations.js';
import { isUnclear, type Outcome } from './session.js';

/** What is known about an operation when its outcomes are judged. */
export interface Circumstances {
  readonly op: Operation;
}

export interface Accepted {
  readonly id: string;
  readonly reason: string;
  readonly covers: (circumstances: Circumstances, reference: Outcome, tested: Outcome) => boolean;
}

const isRequest = (op: Operation, type: number): boolean => op.kind === 'request' && op.type === type;
const specialNames = ['@introduceDomain', '@releaseDomain'];
const first = (op: Operation): string => (op.kind === 'request' ? (op.payload.split('\0')[0] ?? '') : '');

export const accepted: readonly Accepted[] = [
  {
    id: 'special-perms-errno',
    reason:
      'SET_PERMS of an @name that is no event is EINVAL, and of an event by whoever may not EACCES; C answers with the errno ' +
      'of whatever it failed at last',
    covers: ({ op }, reference, tested) =>
      isRequest(op, types.SET_PERMS) &&
      first(op).startsWith('@') &&
      /^E/.test(reference.reply) &&
      tested.reply === (specialNames.includes(first(op)) ? 'EACCES' : 'EINVAL'),
  },
  {
    id: 'one-string-errno',
    reason:
      'READ, DIRECTORY and GET_PERMS of what is not one string with its NUL are ENOENT, MKDIR and RM ENOMEM, as C answers ' +
      'most of the time; its errno is that of whatever it failed at last',
    covers: ({ op }, reference, tested) =>
      op.kind === 'request' && isUnclear(op) && /^E/.test(reference.reply) && /^(ENOENT|ENOMEM)$/.test(tested.reply),
  },
  {
    id: 'release-reply-order',
    reason:
      'the reply to RELEASE comes after the events of what went with the domain; in C it comes before them if the ' +
      'connection that is ended happens to be the one after that of whoever asked',
    covers: ({ op }, reference, tested) =>
      isRequest(op, types.RELEASE) && reference.reply === 'OK' && isReordered(op, reference, tested),
  },
];

/** Whether the outcomes are the same but for the place of the reply. */
function isReordered(op: Operation, reference: Outcome, tested: Outcome): boolean {
  const withoutReply = ({ heard }: Outcome): string =>
    JSON.stringify([...heard].map(([conn, lines]) => [conn, lines.filter((line) => line.startsWith('event '))]).sort());
  return op.kind === 'request' && reference.reply === tested.reply && withoutReply(reference) === withoutReply(tested);
}

/** The entry that covers a difference. */
export function acceptedAs(circumstances: Circumstances, reference: Outcome, tested: Outcome): Accepted | undefined {
  return accepted.find(({ covers }) => covers(circumstances, reference, tested));
}
