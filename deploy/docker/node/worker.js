'use strict';

// A worker that answers each message in capitals, and refuses an empty one.

const { Pool, Refuse } = require('./poolinit.js');

const pool = new Pool();
pool.on('workerStart', (workerId) => {
  console.log(`worker ${workerId} of ${pool.workers} is started`); // here it would connect to its database
});
pool.on('message', async (message) => {
  if (message.length === 0) throw new Refuse('there is nothing in it');
  return message.toString().toUpperCase(); // an error: the message is delivered again
});
pool.start();
