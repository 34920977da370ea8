'use strict';

// What the tests of the Node.js SDK run. A message's first word says what becomes of it.

const { spawnSync } = require('child_process');
const fs = require('fs');
const { setTimeout } = require('timers/promises');
const { Pool, Refuse } = require('./poolinit.js');

const pool = new Pool(2, {
  healthyAfter: '0s',
  maxMessage: process.env.MAX_MESSAGE,
  concurrency: Number(process.env.CONCURRENCY || 1),
});
if (process.env.POOL_URL) pool.listen(process.env.POOL_URL);

async function awaitFile(name) {
  console.log('waiting');
  while (!fs.existsSync(name)) await setTimeout(5);
}

pool.on('start', async () => {
  await null;
  console.log('start');
});

pool.on('workerStart', async (workerId) => {
  await null;
  if (process.env.START === 'fails' || process.env.START === `fails ${pool.generation}`) throw new Error('no database');
  console.log(`up worker=${workerId} of=${pool.workers} generation=${pool.generation} pid=${process.pid}`);
  if (process.env.WATCHDOG_USEC) setInterval(() => pool.notify('WATCHDOG=1'), process.env.WATCHDOG_USEC / 3000).unref();
  while (process.env.START === 'loops') await setTimeout(3600_000);
  if (process.env.START === 'again') pool.start();
});

pool.on('workerStop', async (workerId) => {
  if (workerId !== pool.workerId) throw new Error(workerId);
  console.log(`down worker=${workerId}`);
  if (process.env.BYE) pool.notify('STATUS=bye');
});

pool.on('shutdown', () => console.log('shutdown', pool.workerId));

function message(body) {
  const text = body.toString();
  const at = text.indexOf(' ');
  const [word, rest] = at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
  switch (word) {
    case 'refuse':
      throw new Refuse(rest);
    case 'fail':
      throw new RangeError(rest);
    case 'reject':
      return Promise.reject(new RangeError(rest));
    case 'exit':
      return process.exit(Number(rest));
    case 'stop':
      pool.stop();
      return body;
    case 'shutdown':
      pool.shutdown();
      return body;
    case 'write':
      pool.write('wrote ');
      return rest;
    case 'print':
      console.log('printed:', rest);
      return body;
    case 'none':
      return undefined;
    case 'wrong':
      return {};
    case 'big':
      return Buffer.alloc(Number(rest), 'x');
    case 'pid':
      return String(process.pid);
    case 'wait':
      return awaitFile(rest).then(() => body);
    case 'detach':
      pool.detach('detached');
      return awaitFile(rest);
    case 'loop':
      console.log('looping');
      for (;;);
    case 'child':
      return spawnSync('sh', ['-c', 'env; ls -l /proc/self/fd']).stdout;
    case 'notify':
      return pool.notify(rest).then(String);
    case 'statuses':
      return Promise.all(rest.split(' ').map((text) => pool.notify(`STATUS=${text}`))).then(String);
    case 'async':
      return setTimeout(1).then(() => body);
    default:
      return body;
  }
}

if (process.env.START !== 'loops') pool.on('message', message);
pool.start();
