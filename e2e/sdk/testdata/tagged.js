'use strict';

// What the tests of tagged messages run. A message's first word says what becomes of it.

const fs = require('fs');
const { setTimeout } = require('timers/promises');
const { Pool, Refuse, Retry } = require('./poolinit.js');

const pool = new Pool(1, { healthyAfter: '0s', concurrency: Number(process.env.CONCURRENCY || 1) });
if (process.env.POOL_URL) pool.listen(process.env.POOL_URL);

pool.on('workerStart', (id) => console.log(`up worker=${id} of=${pool.workers} generation=${pool.generation}`));
pool.on('workerStop', (id) => console.log(`down worker=${id}`));

async function awaitFile(name) {
  console.log('waiting');
  while (!fs.existsSync(name)) await setTimeout(5);
}

const seconds = (time) => (time === null ? 'None' : (time.getTime() / 1000).toFixed(3));

pool.on('message', (body, meta) => {
  const text = body.toString();
  const at = text.indexOf(' ');
  const [word, rest] = at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
  switch (word) {
    case 'refuse':
      throw new Refuse(rest);
    case 'retry':
      throw new Retry(Number(rest), 'not yet');
    case 'retry-text':
      return Promise.reject(new Retry(rest, 'not yet'));
    case 'retry-first':
      if (meta.attempt === 1) throw new Retry(rest, 'not yet');
      return body;
    case 'fail':
      throw new RangeError(rest);
    case 'odd':
      throw undefined;
    case 'odd-null':
      return Promise.reject(null);
    case 'odd-text':
      throw { toString() { throw new Error('no text'); } };
    case 'odd-then':
      return { get then() { throw new Error('no then'); } };
    case 'twice':
      return { then(resolve, reject) { resolve(body); resolve('again'); reject(new Error('and again')); } };
    case 'wrong':
      return {};
    case 'none':
      return undefined;
    case 'exit':
      return process.exit(Number(rest));
    case 'stop':
      pool.stop();
      return body;
    case 'write':
      pool.write('wrote ');
      return rest;
    case 'meta':
      return [meta.id, meta.attempt, meta.source, meta.key, seconds(meta.time), seconds(meta.deadline), meta.headers.a ?? ''].join('|');
    case 'attempt':
      return `${meta.attempt} ${meta.source} ${meta.id !== ''} ${meta.time !== null}`;
    case 'touch':
      return String(meta.touch());
    case 'touch-pool':
      return String(pool.touch());
    case 'concurrency':
      return String(pool.concurrency);
    case 'detach':
      pool.detach('detached');
      return body;
    case 'unhandled':
      Promise.reject(new Error('nobody cares'));
      return new Promise(() => {});
    case 'wait':
      return awaitFile(rest).then(() => body);
    case 'sleep':
      return setTimeout(Number(rest) * 1000).then(() => body);
    case 'touching':
      return (async () => {
        for (let i = 0; i < 5; i++) {
          await setTimeout(Number(rest) * 1000);
          meta.touch();
        }
        return body;
      })();
    case 'never':
      console.log('waiting');
      return new Promise(() => {});
    default:
      return body;
  }
});

pool.start();
