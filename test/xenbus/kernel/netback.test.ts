import { nextMove } from '../../../src/xenbus/kernel/netback.js';
import { XenbusState } from '../../../src/xenbus/xenbus.js';

const { Initialising, InitWait, Connected, Closing, Closed } = XenbusState;

/** The states that netback writes on its way, with what it does before one of them. */
function way(from: number, to: number): string[] {
  const moves: string[] = [];
  let state = from;
  for (let move = nextMove(state, to); move; move = nextMove(state, to)) {
    moves.push(move.first ? `${move.first} ${move.next}` : `${move.next}`);
    state = move.next;
  }
  return moves;
}

test.each([
  [Initialising, InitWait, ['2']],
  [Initialising, Connected, ['2', 'connect 4']],
  [Initialising, Closed, ['6']],
  [InitWait, Connected, ['connect 4']],
  [InitWait, Closed, ['5', '6']],
  [Connected, Connected, []],
  [Connected, Closing, ['disconnect 5']],
  [Connected, Closed, ['disconnect 5', '6']],
  [Connected, InitWait, ['disconnect 5', '6', '2']],
  [Closing, Connected, ['6', '2', 'connect 4']],
  [Closed, InitWait, ['2']],
  [Closed, Closing, ['5']],
])('from %i to %i netback goes %j', (from, to, expected) => {
  expect(way(from, to)).toEqual(expected);
});
