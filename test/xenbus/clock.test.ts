import { SimClock, seeded } from '../../src/xenbus/clock.js';

describe('SimClock', () => {
  test('runs timers in the order of their times, and those of one time in the order they were set', () => {
    const clock = new SimClock();
    const ran: string[] = [];
    clock.after(20, () => ran.push('c'));
    clock.after(10, () => ran.push('a'));
    clock.after(10, () => ran.push('b'));
    clock.advance(15);
    expect({ ran: [...ran], now: clock.now() }).toEqual({ ran: ['a', 'b'], now: 15 });
    expect(clock.jump()).toBe(true);
    expect({ ran, now: clock.now(), pending: clock.pending }).toEqual({ ran: ['a', 'b', 'c'], now: 20, pending: false });
  });

  test('does not run a timer that was cancelled', () => {
    const clock = new SimClock();
    let ran = false;
    clock.after(1, () => {
      ran = true;
    })();
    clock.advance(10);
    expect(ran).toBe(false);
  });

  test('gives the same bytes for the same seed', () => {
    expect(new SimClock(7).random(8)).toEqual(new SimClock(7).random(8));
    expect(new SimClock(7).random(8)).not.toEqual(new SimClock(8).random(8));
  });
});

test('a seed gives one sequence of 32-bit numbers', () => {
  const a = seeded(42);
  const b = seeded(42);
  const drawn = Array.from({ length: 100 }, () => a());
  expect(drawn).toEqual(Array.from({ length: 100 }, () => b()));
  expect(drawn.every((n) => Number.isInteger(n) && n >= 0 && n < 2 ** 32)).toBe(true);
});
