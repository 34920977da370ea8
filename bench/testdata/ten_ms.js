'use strict';

// A worker of which each message takes 10 ms.

const { setTimeout } = require('timers/promises');
const { Pool } = require('../../sdk/node/poolinit.js');

const pool = new Pool();
pool.on('message', (body) => setTimeout(10, body));
pool.start();
