'use strict';

// Sends each line of stdin, and prints what becomes of it. With PARALLEL they are all on the way at once.

const fs = require('fs');
const readline = require('readline');
const { Client, Failure } = require('./poolinit.js');

let client;
try {
  const tls = process.env.CA ? { ca: fs.readFileSync(process.env.CA) } : undefined;
  client = new Client(process.argv[2], {
    timeout: Number(process.env.TIMEOUT || 60) * 1000, connectTimeout: Number(process.env.CONNECT_TIMEOUT || 60) * 1000, tls,
  });
} catch (e) {
  console.error(e.message);
  process.exit(1);
}

async function send(line) {
  try {
    console.log((await client.send(line)).toString());
  } catch (e) {
    if (e instanceof Failure) console.log('failure', e.code, e.text);
    else console.log('error', e.code ?? '', e.message);
  }
}

(async () => {
  const all = [];
  for await (const line of readline.createInterface({ input: process.stdin })) {
    all.push(send(line));
    if (!process.env.PARALLEL) await all.pop();
  }
  await Promise.all(all);
  if (!process.env.OPEN) client.close(); // else the process ends all the same
})();
