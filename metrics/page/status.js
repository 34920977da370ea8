'use strict';

// This page shows status.json, and asks for it each second. What it shows may
// come from anybody (a worker's STATUS is any text), so all of it goes in as
// textContent, and nothing as HTML.

const $ = id => document.getElementById(id);

const patience = 5000; // ms for an answer
const span = 120; // s in the small charts
const calm = 5; // s that rates are averaged over

// Words for numbers. They keep their width, as far as they can.

const grouped = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 4 });
const num = n => (n < 1e6 ? grouped : short).format(n);
const rate = n => n >= 9.95 || n === 0 ? num(Math.round(n)) : n.toFixed(1);
const percent = n => `${n < 9.95 && n > 0 ? n.toFixed(1) : Math.round(n)} %`;
const plural = (n, what) => `${num(n)} ${what}${n === 1 ? '' : 's'}`;

function size(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  for (; bytes >= 1000 && i < units.length - 1; i++) bytes /= 1024;
  return `${i && bytes < 9.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[i]}`;
}

function age(s) {
  if (s < 0.9995) return `${Math.round(s * 1000)}ms`;
  if (s < 9.95) return `${s.toFixed(1)}s`;
  const two = (big, a, small, b) => `${Math.floor(big)}${a} ${Math.floor(small)}${b}`;
  if (s < 60) return `${Math.floor(s)}s`;
  if (s < 3600) return two(s / 60, 'm', s % 60, 's');
  if (s < 86400) return two(s / 3600, 'h', s % 3600 / 60, 'm');
  return two(s / 86400, 'd', s % 86400 / 3600, 'h');
}

const clock = t => new Date(t).toLocaleTimeString();
const date = t => new Date(t).toLocaleString();

// What changes the page does so only where something is different: with a
// thousand workers that is what costs.

function text(node, value) {
  value = String(value ?? '');
  if (node.shown !== value) node.textContent = node.shown = value;
}

function attr(node, name, value) {
  if (value === undefined || value === '') node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function make(tag, attrs = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs)) attr(node, name, value);
  node.append(...inside);
  return node;
}

// facts fills a list of names and values. Their number and order stay.
function facts(list, pairs) {
  pairs.forEach(([name, value, tone], i) => {
    const pair = list.children[i] ?? list.appendChild(make('div', {}, make('dt'), make('dd')));
    pair.hidden = value === undefined || value === '';
    text(pair.firstChild, name);
    text(pair.lastChild, value);
    attr(pair, 'class', tone);
  });
}

// What is known of the last two minutes.

let samples = []; // one for each answer: { t (s), handled, failed, busy, depth, cpu by worker }
let doc; // the last answer

const sum = (list, key) => list.reduce((n, x) => n + x[key], 0);

function remember() {
  const cpu = doc.workers.map(w => w.cpu_seconds);
  const last = samples.at(-1);
  // A process that has just ended is not in its worker's sum for a moment.
  if (last) cpu.forEach((s, i) => { cpu[i] = Math.max(s, last.cpu[i] ?? 0); });
  samples.push({
    t: Date.parse(doc.time) / 1000, cpu, depth: doc.queue?.messages ?? 0,
    handled: sum(doc.workers, 'handled'), failed: sum(doc.workers, 'failed'), busy: sum(doc.workers, 'busy_seconds'),
  });
  const now = samples.at(-1).t;
  samples = samples.filter(s => s.t > now - span - calm);
}

// growth is how much something grew a second, of late; undefined if nobody knows yet.
function growth(of) {
  const now = samples.at(-1);
  const past = samples.find(s => s.t >= now.t - calm - 0.5);
  if (past === now) return undefined;
  return Math.max(0, of(now) - of(past)) / (now.t - past.t);
}

// chart draws lines of [t, value], all on one scale, and returns the top of it.
// There is no line where nobody looked.
function chart(svg, lines, least) {
  const now = samples.at(-1).t;
  const top = Math.max(least, ...lines.flat().map(p => p[1]));
  lines.forEach((points, n) => {
    let line = '', area = '', before, from;
    const x = t => (240 - (now - t) * 240 / span).toFixed(1);
    const close = () => { if (before) area += `L${x(before)} 40L${x(from)} 40Z`; };
    for (const [t, value] of points) {
      const at = `${x(t)} ${(38.5 - value / top * 36).toFixed(1)}`;
      if (before && t - before < calm) {
        line += `L${at}`;
        area += `L${at}`;
      } else {
        close();
        line += `M${at}`;
        area += `M${at}`;
        from = t;
      }
      before = t;
    }
    close();
    if (n === 0) attr(svg.querySelector('.area'), 'd', area || 'M0 0');
    attr(svg.querySelectorAll('.line')[n], 'd', line || 'M0 0');
  });
  return top;
}

// Tables.

const failures = ['crash', 'oom', 'not-ready', 'watchdog', 'message-timeout', 'protocol', 'start'];

// troubled says which workers somebody should look at.
const troubled = w => w.failures_in_a_row > 0 || w.state === 'backoff' || (w.state === 'stopped' && !doc.stopping) ||
  (['starting', 'stopping'].includes(w.state) && w.state_seconds > 10);

function cpuOf(w, i) {
  const used = growth(s => s.cpu[i]);
  return used === undefined || !w.pid ? undefined : used * 100;
}

// ended is a last exit in two parts: why, and the rest.
function ended(x) {
  const how = x.signal || (x.pid ? `code ${x.code}` : 'not started');
  return [`${x.why} ${how}`, `${age(Math.max(0, (Date.parse(doc.time) - Date.parse(x.time)) / 1000))} ago`];
}

const since = w => w.state === 'backoff' ? `next in ${age(w.next_start_seconds ?? 0)}` : w.state === 'busy' ? '' : age(w.state_seconds);

// A column: its name, what is in a cell (text, less important text, tone, title),
// and what it is sorted by. The class m is for what has to do with messages.
const workerColumns = [
  { name: 'Worker', cell: w => [w.id], by: w => w.id },
  { name: 'State', cls: 'state', cell: w => [w.state, since(w), w.state], by: w => w.state },
  { name: 'In hand', cls: 'm', num: 1, cell: w => w.in_hand ? [num(w.in_hand), age(w.held_seconds)] : ['–'], by: w => -w.held_seconds },
  { name: 'Handled', cls: 'm', num: 1, cell: w => [num(w.handled)], by: w => -w.handled },
  { name: 'Failed', cls: 'm', num: 1, cell: w => [num(w.failed), '', w.failed ? 'warn' : ''], by: w => -w.failed },
  { name: 'Starts', num: 1, cell: w => [num(w.starts), '', w.failures_in_a_row ? 'warn' : ''], by: w => -w.starts },
  { name: 'Memory', num: 1, cell: w => [w.memory_bytes ? size(w.memory_bytes) : '–'], by: w => -w.memory_bytes },
  { name: 'CPU', num: 1, cell: (w, i) => [cpuOf(w, i) === undefined ? '–' : percent(cpuOf(w, i))], by: (w, i) => -(cpuOf(w, i) ?? -1) },
  { name: 'PID', num: 1, cell: w => [w.pid || '–', [w.successor_pid && `→ ${w.successor_pid}`, w.detached_pids && `+${w.detached_pids.length}`].filter(Boolean).join(' ')], by: w => w.pid ?? 0 },
  { name: 'Gen.', num: 1, cell: w => [w.generation || '–', '', w.generation && w.generation < doc.generation ? 'old' : ''], by: w => w.generation ?? 0 },
  { name: 'Status', cls: 'words', cell: w => [w.status, '', '', w.status], by: w => w.status ?? '\uffff' },
  { name: 'Last exit', cls: 'words exit', cell: w => w.last_exit ? [...ended(w.last_exit), failures.includes(w.last_exit.why) ? 'bad' : '', `${w.last_exit.text}, ${date(w.last_exit.time)}`] : [''], by: w => w.last_exit ? -Date.parse(w.last_exit.time) : 1 },
];

// details is all that a row has no room for.
function details(w, i) {
  const x = w.last_exit;
  return [
    ['Status', w.status],
    ['Last exit', x && `${x.text}${x.pid ? `, PID ${x.pid}, peak memory ${size(x.peak_memory_bytes)}` : ''}, at ${date(x.time)}`],
    ['Process', w.pid && `PID ${w.pid}, generation ${w.generation}, up for ${age(w.uptime_seconds)}`],
    ['Successor', w.successor_pid && `PID ${w.successor_pid} is starting`],
    ['Detached, still alive', w.detached_pids?.map(pid => `PID ${pid}`).join(', ')],
    ['Failures in a row', w.failures_in_a_row || ''],
    ['Next start', w.next_start_seconds && `in ${age(w.next_start_seconds)}`],
    ['Messages', doc.queue && `${num(w.in_hand)} in hand, window ${w.window ?? 0}, ${age(w.busy_seconds)} busy in all`],
    ['CPU time', age(w.cpu_seconds)],
  ];
}

const sourceColumns = [
  { name: 'Source', cls: 'words', cell: s => [s.name, '', '', s.name] },
  { name: 'Connections', num: 1, cell: s => [num(s.connections), s.turned_away ? `${num(s.turned_away)} turned away` : '', '', `${grouped.format(s.accepted)} accepted in all`] },
  ...[['Received'], ['Handled'], ['Failed', 'warn'], ['Retried'], ['Given up', 'bad'], ['Spooled', 'warn'], ['Lost', 'bad']].map(([name, tone]) => ({
    name, num: 1,
    cell: s => {
      const n = s[name.toLowerCase().replace(' ', '_')];
      return [num(n), '', n ? tone : '', grouped.format(n)];
    },
  })),
];

// table returns what fills a table. Rows stay where they are, and change in place.
// What keep refuses is hidden; more gives a row's details, and makes it open.
function table(root, columns, { keep, more } = {}) {
  let sorted = columns[0], order = '';
  const redraw = () => doc && fill();
  const heads = columns.map(c => {
    const name = c.by ? make('button', { type: 'button', title: `sort by ${c.name}` }, c.name) : c.name;
    const th = make('th', { role: 'columnheader', scope: 'col', class: `${c.cls ?? ''} ${c.num ? 'num' : ''}` }, name);
    if (c.by) name.onclick = () => { sorted = c; redraw(); };
    return th;
  });
  const body = make('tbody', { role: 'rowgroup' });
  root.append(make('thead', { role: 'rowgroup' }, make('tr', { role: 'row' }, ...heads)), body);
  const rows = [];
  let items = [];

  function add() {
    const row = { tr: make('tr', { role: 'row' }), cells: [] };
    for (const c of columns) {
      const main = row.cells.length === 0 && more ? make('button', { type: 'button', 'aria-expanded': false }) : make('b');
      const cell = { td: make('td', { role: 'cell', 'data-name': c.name }, main), main, cls: `${c.cls ?? ''} ${c.num ? 'num' : ''}` };
      row.cells.push(cell);
      row.tr.append(cell.td);
    }
    if (more) row.tr.onclick = () => { if (!getSelection().toString()) open(row); };
    rows.push(row);
    body.append(row.tr);
  }

  function open(row) {
    row.more ??= row.tr.appendChild(make('td', { role: 'cell', class: 'more' }, make('dl')));
    row.open = !row.open;
    row.more.hidden = !row.open;
    row.cells[0].main.setAttribute('aria-expanded', row.open);
    redraw();
  }

  function change(cell, [main, rest, tone, title]) {
    text(cell.main, main);
    if (rest && !cell.rest) cell.td.append(' ', cell.rest = make('span'));
    if (cell.rest) text(cell.rest, rest);
    attr(cell.td, 'class', `${cell.cls} ${tone ?? ''} ${main === '' || main === undefined ? 'none' : ''}`.trim());
    attr(cell.td, 'title', title);
  }

  function fill() {
    while (rows.length < items.length) add();
    while (rows.length > items.length) rows.pop().tr.remove();
    let shown = 0;
    items.forEach((item, i) => {
      const row = rows[i];
      row.tr.hidden = keep ? !keep(item) : false;
      if (row.tr.hidden) return;
      shown++;
      columns.forEach((c, n) => change(row.cells[n], c.cell(item, i)));
      attr(row.tr, 'class', more && troubled(item) ? 'troubled' : '');
      if (row.open) facts(row.more.firstChild, more(item, i));
    });
    columns.forEach((c, n) => attr(heads[n], 'aria-sort', c.by && c === sorted ? 'ascending' : ''));
    arrange();
    return shown;
  }

  function arrange() {
    if (!sorted.by) return;
    const keys = items.map((item, i) => sorted.by(item, i));
    const want = rows.map((_, i) => i).sort((a, b) => keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b);
    if (order === want.join()) return;
    order = want.join();
    body.append(...want.map(i => rows[i].tr));
  }

  return list => { items = list; return fill(); };
}

const filters = [['All', () => true], ['Troubled', troubled], ['Busy', w => w.in_hand > 0]];
let filter = filters[0];
const showWorkers = table($('workers'), workerColumns, { keep: w => filter[1](w), more: details });
const showSources = table($('sources'), sourceColumns);

for (const f of filters) {
  const button = $('filters').appendChild(make('button', { type: 'button', 'aria-pressed': f === filter }, f[0], ' ', make('span')));
  if (f[0] === 'Busy') button.className = 'm';
  button.onclick = () => {
    filter = f;
    for (const b of $('filters').children) b.setAttribute('aria-pressed', b === button);
    if (doc) showList();
  };
}

// The page.

function showList() {
  const shown = showWorkers(doc.workers);
  filters.forEach((f, i) => text($('filters').children[i].lastChild, num(doc.workers.filter(f[1]).length)));
  $('nobody').hidden = shown > 0;
  text($('nobody'), `No worker is ${filter[0].toLowerCase()}.`);
}

// headline says in a word how the pool is.
function headline(word, why, tone) {
  text($('state').firstChild, word);
  text($('state').lastChild, why);
  document.body.dataset.tone = tone;
  document.title = `${word} · ${location.host}`;
}

function showState() {
  const r = doc.reload, bad = doc.workers.filter(troubled).length;
  if (doc.stopping) headline('Stopping', doc.stopping, 'warn');
  else if (!doc.ready) headline('Not ready', doc.reason, 'bad');
  else if (r.state === 'running') headline('Ready', `reload: ${num(r.replaced)} of ${num(doc.workers.length)} replaced`, 'good');
  else headline('Ready', bad ? `${plural(bad, 'worker')} troubled` : '', 'good');
  facts($('facts'), [
    ['version', doc.version], ['PID', doc.pid], ['up', age(doc.uptime_seconds)], ['generation', doc.generation],
    ['orphans reaped', num(doc.orphans_reaped)],
  ]);
}

function showTiles() {
  const states = ['busy', 'ready', 'starting', 'stopping', 'detached', 'backoff', 'stopped'];
  const all = doc.workers.length;
  const counts = states.map(s => doc.workers.filter(w => w.state === s).length);
  text($('serving'), num(counts[0] + counts[1]));
  text($('wanted'), `of ${num(all)} ready`);
  states.forEach((s, i) => {
    const part = $('bar').children[i] ?? $('bar').appendChild(make('i', { class: s }));
    part.style.flexGrow = counts[i];
    const word = $('legend').children[i] ?? $('legend').appendChild(make('span', { class: s }));
    // The usual two are always there, so that nothing moves.
    word.hidden = !counts[i] && (i > 1 || !doc.queue && i === 0);
    text(word, `${num(counts[i])} ${s}`);
  });

  const r = doc.reload, running = r.state === 'running';
  text($('reload'), r.state);
  text($('replaced'), running ? `${num(r.replaced)} of ${num(all)}` : '');
  attr($('reload').parentNode, 'class', `big ${r.state === 'failed' ? 'bad' : ''}`);
  $('progress').firstChild.style.width = running ? `${100 * r.replaced / all}%` : 0;
  const began = r.began && (Date.parse(doc.time) - Date.parse(r.began)) / 1000;
  text($('when'), r.state === 'none' ? 'since the start' : running
    ? `to generation ${r.generation}, for ${age(r.seconds ?? 0)}${r.queued ? ', another one follows' : ''}`
    : `${r.generation ? `generation ${r.generation}, ` : ''}${began ? `${age(began)} ago, ` : ''}took ${age(r.seconds ?? 0)}`);
  text($('why'), r.reason);
  attr($('why'), 'title', r.reason);
}

function showMessages() {
  const q = doc.queue, points = (of, from = 0) => samples.slice(from).map((s, i) => [s.t, of(s, samples[i])]);
  const done = s => s.handled + s.failed;
  const per = of => points((s, before) => Math.max(0, of(s) - of(before)) / (s.t - before.t), 1);
  const [all, failed] = [growth(done), growth(s => s.failed)];
  const top = chart($('rates'), [per(done), per(s => s.failed)], 1);
  const deepest = chart($('depths'), [points(s => s.depth)], 10);
  text($('rate'), all === undefined ? '–' : rate(all));
  text($('failing'), `failed ${failed === undefined ? '–' : rate(failed)}/s`);
  attr($('failing'), 'class', failed ? 'bad' : '');
  text($('peak'), `peak ${rate(top)}/s`);
  attr($('rates'), 'aria-label', `messages a second in the last two minutes, at most ${rate(top)}`);
  const used = growth(s => s.busy);
  text($('share'), used === undefined ? '' : `${percent(Math.min(100, 100 * used / doc.workers.length))} of their time busy`);
  text($('counts'), `${num(q.in_flight)} with workers now`);

  text($('depth'), num(q.messages));
  text($('oldest'), q.messages ? `oldest ${age(q.oldest_seconds)}` : 'waiting');
  text($('bytes'), size(q.bytes));
  text($('deepest'), `peak ${num(Math.max(...samples.map(s => s.depth)))}`);
  attr($('depths'), 'aria-label', `messages in the queue in the last two minutes, at most ${num(deepest)}`);
  const byCount = q.limit_messages ? q.messages / q.limit_messages : 0, byBytes = q.limit_bytes ? q.bytes / q.limit_bytes : 0;
  const full = Math.min(100, 100 * Math.max(byCount, byBytes));
  text($('full'), `${percent(full)} of ${byBytes > byCount ? size(q.limit_bytes) : num(q.limit_messages)}`);
  $('fill').firstChild.style.width = `${full}%`;
  attr($('fill'), 'aria-valuenow', Math.round(full));
  attr($('fill'), 'class', `bar ${full >= 95 ? 'bad' : full >= 70 ? 'warn' : ''}`);

  const total = key => sum(doc.sources, key), strong = (key, tone) => total(key) ? tone : '';
  facts($('totals'), [
    ['received', num(total('received'))], ['handled', num(total('handled'))], ['failed', num(total('failed')), strong('failed', 'warn')],
    ['retried', num(total('retried'))], ['spooled', num(total('spooled')), strong('spooled', 'warn')],
    ['given up', num(total('given_up')), strong('given_up', 'bad')], ['lost', num(total('lost')), strong('lost', 'bad')],
  ]);
  showSources(doc.sources);
}

function show(next) {
  if (doc && doc.version !== next.version) return location.reload(); // another binary has another page
  if (doc && doc.started !== next.started) samples = []; // another pool
  doc = next;
  if (samples.length && Date.parse(doc.time) / 1000 <= samples.at(-1).t) return; // seen already
  remember();
  document.body.classList.toggle('plain', !doc.queue);
  showState();
  showTiles();
  if (doc.queue) showMessages();
  showList();
}

// Asking.

let answered, misses = 0, timer, next, asking = false, trouble = '';

async function ask() {
  const answer = await fetch('status.json', { cache: 'no-store', signal: AbortSignal.timeout(patience) });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return answer.json();
}

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return; // nobody looks: it goes on when somebody does
  asking = true;
  const began = performance.now();
  let got;
  try {
    got = await ask();
    misses = 0;
    answered = Date.now();
  } catch (err) {
    misses++;
    trouble = err.message.startsWith('HTTP') ? ` (${err.message})` : '';
  }
  asking = false;
  const wait = misses ? Math.min(1000 * 2 ** (misses - 1), 8000) : Math.max(200, 1000 - performance.now() + began);
  next = Date.now() + wait;
  timer = setTimeout(poll, wait);
  document.body.classList.remove('waiting');
  document.body.classList.toggle('gone', misses > 0);
  if (got) show(got);
  waiting();
}

// waiting says that nobody answers, and since when.
function waiting() {
  if (misses) {
    const then = !doc ? '' : doc.stopping ? `; it was stopping: ${doc.stopping}` : '; below is how it was then';
    headline('No answer', answered ? `since ${clock(answered)}${trouble}${then}` : `yet${trouble}`, 'bad');
  }
  const left = Math.ceil((next - Date.now()) / 1000);
  text($('ago'), misses ? `${answered ? `${age(Math.round((Date.now() - answered) / 1000))} ago, ` : ''}${left > 0 ? `trying again in ${left}s` : 'trying again'}` : '');
}

setInterval(() => { if (misses) waiting(); }, 1000);
document.addEventListener('visibilitychange', poll);
text($('host'), location.host);
poll();
