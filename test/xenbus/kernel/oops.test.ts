/** What a broken kernel prints, and what it remembers of that. */
import { oopsText, taintText, untainted, warnText } from '../../../src/xenbus/kernel/oops.js';
import { KTask } from '../../../src/xenbus/kernel/sched.js';

/** A task with this stack, outermost first, and so many spinlocks. */
function taskIn(stack: readonly string[], atomic = 0): KTask {
  const task = new KTask(44, 'xen-mtwatch-1234', { domid: 0, frozen: false, ready: 0 });
  task.stack.push(...stack);
  task.atomic = atomic;
  return task;
}

const release = '6.1.0-56-amd64 #1  Debian 6.1.192-2';
const trace = [
  'Call Trace:',
  ' <TASK>',
  ' outer',
  ' kthread',
  ' ret_from_fork',
  ' </TASK>',
  '---[ end trace 0000000000000000 ]---',
];
const cpu = (tainted: string) => `CPU: 0 PID: 44 Comm: xen-mtwatch-123 ${tainted} ${release}`;

test('each death is counted, and the first report is that of a kernel still untainted', () => {
  const taint = untainted();
  expect(oopsText(taint, taskIn(['outer', 'inner [mod]'], 2), 'kernel BUG at a/b.c:12!').split('\n')).toEqual([
    '------------[ cut here ]------------',
    'kernel BUG at a/b.c:12!',
    'invalid opcode: 0000 [#1] PREEMPT SMP NOPTI',
    cpu('Not tainted'),
    'RIP: e030:inner [mod]',
    ...trace,
    'note: xen-mtwatch-123[44] exited with preempt_count 2',
  ]);
  const bad = 'unable to handle page fault for address: fffffffffffffff4';
  expect(oopsText(taint, taskIn(['outer', 'kthread_stop']), bad).split('\n')).toEqual([
    `BUG: ${bad}`,
    'Oops: 0000 [#2] PREEMPT SMP NOPTI',
    cpu('Tainted: G      D           '),
    'RIP: e030:kthread_stop',
    ...trace,
  ]);
});

test('a warning taints too, at its own place', () => {
  const taint = untainted();
  expect(warnText(taint, taskIn(['outer', 'inner']), 'a/b.c:3').split('\n')).toEqual([
    '------------[ cut here ]------------',
    'WARNING: CPU: 0 PID: 44 at a/b.c:3 inner',
    cpu('Not tainted'),
    'RIP: e030:inner',
    ...trace,
  ]);
  expect([taintText(taint), taint.oopses]).toEqual(['Tainted: G        W         ', 0]);
  taint.flags.add('D').add('L');
  expect(taintText(taint)).toBe('Tainted: G      D W    L    ');
});
