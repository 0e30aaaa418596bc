/** The program of a worker thread: does jobs in the world. */
import { parentPort } from 'node:worker_threads';
import { serveJobs } from './workers.js';
import { runSchedule } from './world.js';

if (parentPort) serveJobs(parentPort, runSchedule);
