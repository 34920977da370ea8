'use strict';

// The page reads status.json every second. Its text is not trusted (a worker's
// STATUS is any text), so it is inserted as textContent, never as HTML.

const $ = id => document.getElementById(id);

const span = 120; // s, width of the charts
const calm = 5.5; // s, over which rates are averaged

const whole = new Intl.NumberFormat('en').format;
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 4 }).format;
const num = n => (n < 1e6 ? whole : short)(n);
const rate = n => n >= 0 ? n > 9.9 || !n ? num(Math.round(n)) : n.toFixed(1) : '–';
const percent = n => n >= 0 ? `${rate(n)} %` : '–';

function size(n) {
	let i = 0;
	for (; n >= 1000 && i < 4; i++) n /= 1024;
	return `${i && n < 9.9 ? n.toFixed(1) : Math.round(n)} ${['B', 'KiB', 'MiB', 'GiB', 'TiB'][i]}`;
}

function age(s) {
	if (s < 0.9995) return `${Math.round(s * 1000)}ms`;
	if (s < 60) return `${s < 9.95 ? s.toFixed(1) : Math.floor(s)}s`;
	const [big, a, small, b] = s < 3600 ? [60, 'm', 1, 's'] : s < 86400 ? [3600, 'h', 60, 'm'] : [86400, 'd', 3600, 'h'];
	const rest = Math.floor(s % big / small);
	return `${Math.floor(s / big)}${a}${rest ? ` ${rest}${b}` : ''}`;
}

const time = new Intl.DateTimeFormat('sv', { dateStyle: 'short', timeStyle: 'medium' }).format; // 2026-01-31 23:59:59
const date = t => time(new Date(t));
const ago = t => age(Math.max(0, Date.parse(doc.time) - Date.parse(t)) / 1000).split(' ')[0] + ' ago'; // by the pool's clock

// Only changes are written: with 1,000 workers, writing is what takes time.

function text(node, value) {
	value = String(value ?? '');
	if (node.shown !== value) node.textContent = node.shown = value;
}

function attr(node, name, value) {
	if (value === undefined || value === '') node.removeAttribute(name);
	else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function make(tag, attrs, ...inside) {
	const node = document.createElement(tag);
	for (const name in attrs) attr(node, name, attrs[name]);
	node.append(...inside);
	return node;
}

const put = (id, value) => text($(id), value);

// pairs fills a list of names and values. Their number never changes.
function pairs(list, all) {
	all.forEach(([name, value, tone], i) => {
		const pair = list.children[i] ?? list.appendChild(make('div', {}, make('dt'), make('dd')));
		pair.hidden = !value && value !== 0;
		text(pair.firstChild, name);
		text(pair.lastChild, value);
		attr(pair, 'class', tone);
	});
}

let doc; // the last answer
let samples = []; // the last minutes: t (s), sums, CPU time of each worker

const sum = (list, key) => list.reduce((n, x) => n + x[key], 0);

function remember() {
	const t = Date.parse(doc.time) / 1000, w = doc.workers;
	if (samples.at(-1)?.t >= t) samples = []; // the clock was set back
	// A process that just ended is missing in one answer; CPU time must not shrink.
	const before = samples.at(-1)?.cpu ?? [];
	samples = samples.filter(s => s.t > t - span - calm);
	samples.push({
		t, depth: doc.queue?.messages, failed: sum(w, 'failed'), done: sum(w, 'handled') + sum(w, 'failed'),
		busy: sum(w, 'busy_seconds'), cpu: w.map((w, i) => Math.max(w.cpu_seconds, before[i] ?? 0)),
	});
}

// growth is the growth per second between two samples.
const growth = (of, now = samples.at(-1), past = samples.find(s => s.t > now.t - calm)) =>
	past === now ? undefined : Math.max(0, of(now) - of(past)) / (now.t - past.t);

// chart draws a step for each [time, seconds, value], and nothing between polls.
function chart(path, steps, top) {
	const end = samples.at(-1).t;
	attr(path, 'd', steps.map(([t, took, value]) =>
		`M${(240 - (end - t) * 2).toFixed(1)} 40v${(-38 * value / top).toFixed(1)}h${(-2 * Math.min(took, calm)).toFixed(1)}V40`).join('') || 'M0 0');
}

// A column: name, class (m: about messages), content of a cell (text, less
// important text, tone, title), sort key.

// troubled workers need attention.
const troubled = w => w.failing || w.failures_in_a_row > 0 || w.state === 'backoff' || /ing$/.test(w.state) && w.state_seconds > 10;

const cpu = (w, i) => w.pid && growth(s => s.cpu[i]);

// exit is the cell of a last exit. The cause may be a word that is new to this page.
function exit(x) {
	if (!x) return [];
	const how = x.signal || (x.pid ? `code ${x.code}` : 'not started');
	return [`${x.why}, ${how}`, ago(x.time), /^(done|detach|max|reload|stop)/.test(x.why) ? '' : 'bad', `${x.text}, ${date(x.time)}`];
}

const since = w => w.failing ? 'failing' : w.newborn ? 'newborn' : w.state === 'busy' ? '' : w.state === 'backoff' ? `${age(w.next_start_seconds ?? 0)} left` : age(w.state_seconds);
const others = w => (w.successor_pid ? `→ ${w.successor_pid} ` : '') + (w.detached_pids ? `+ ${w.detached_pids.length}` : '');

const workerColumns = [
	['worker', '', w => [w.id], w => w.id],
	['state', 'state', w => [w.state, since(w), w.state], w => w.state],
	['in hand', 'm num', w => w.in_hand ? [num(w.in_hand), age(w.held_seconds)] : ['–'], w => -w.held_seconds],
	['handled', 'm num', w => [num(w.handled)], w => -w.handled],
	['failed', 'm num', w => [num(w.failed), '', w.failed && 'warn'], w => -w.failed],
	['starts', 'num wider', w => [num(w.starts), '', w.failures_in_a_row && 'warn'], w => -w.starts],
	['memory', 'num', w => [w.memory_bytes ? size(w.memory_bytes) : '–'], w => -w.memory_bytes],
	['CPU', 'num', (w, i) => [percent(100 * cpu(w, i))], (w, i) => -(cpu(w, i) || 0)],
	['PID', 'num wider pid', w => [w.pid || '–', others(w)], w => w.pid ?? 0],
	['gen.', 'num wider', w => [w.generation || '–', '', w.generation < doc.generation && 'warn'], w => w.generation ?? 0],
	['status', 'words says', w => [w.status, '', '', w.status], w => w.status ?? '\uffff'],
	['last exit', 'words', w => exit(w.last_exit), w => -Date.parse(w.last_exit?.time ?? 0)],
];

// details are the fields that do not fit into a row.
function details(w) {
	const x = w.last_exit;
	return [
		['status', w.status],
		['last exit', x && `${x.text}${x.pid ? `, PID ${x.pid}, peak memory ${size(x.peak_memory_bytes)}` : ''}, ${date(x.time)}`],
		['process', w.pid && `PID ${w.pid}, generation ${w.generation}, up for ${age(w.uptime_seconds)}`],
		['successor, not ready yet', w.successor_pid && `PID ${w.successor_pid}`],
		['detached, still alive', w.detached_pids && `PID ${w.detached_pids.join(', ')}`],
		['starts', `${num(w.starts)}, failures in a row: ${num(w.failures_in_a_row)}`],
		['messages', doc.queue && `${num(w.in_hand)} in hand, window ${w.window ?? 0}`],
	];
}

// The counts of a source, and their tone if not 0.
const counts = [['received'], ['handled'], ['failed', 'warn'], ['retried'], ['given_up', 'bad'], ['expired', 'warn'], ['spooled', 'warn'], ['lost', 'bad']];
const spaced = key => key.replace('_', ' ');

const sourceColumns = [
	['source', 'words', s => [s.name, '', '', s.name]],
	['connections', 'num', s => [num(s.connections), s.turned_away && `${num(s.turned_away)} turned away`, '', `${num(s.accepted)} in all`]],
	...counts.map(([key, tone]) => [spaced(key), 'num', s => [num(s[key]), '', s[key] && tone]]),
];

// table returns a function that updates a table in place and returns how many items
// it shows. A click on a row opens its details.
function table(root, columns, keep, details) {
	let items = [], sorted = 0, order;
	const rows = [], body = make('tbody');
	const heads = columns.map(([name, cls, , by], n) => {
		const button = by ? make('button', {}, name) : name;
		if (by) button.onclick = () => { sorted = n; fill(); };
		return make('th', { role: 'columnheader', class: cls }, button);
	});
	root.append(make('thead', {}, make('tr', { role: 'row' }, ...heads)), body);

	function add() {
		const row = { tr: body.appendChild(make('tr', { role: 'row' })) };
		row.cells = columns.map(([name], n) => {
			const main = make(!n && details ? 'button' : 'b');
			return { main, td: row.tr.appendChild(make('td', { role: 'cell', 'data-name': name }, main)) };
		});
		rows.push(row);
		if (!details) return;
		attr(row.cells[0].main, 'aria-expanded', false);
		row.tr.onclick = e => {
			if (e.target.closest('.more') || !getSelection().isCollapsed) return;
			row.more ??= row.tr.appendChild(make('td', { role: 'cell', class: 'more', hidden: 1 }, make('dl')));
			row.more.hidden = !row.more.hidden;
			attr(row.cells[0].main, 'aria-expanded', !row.more.hidden);
			fill();
		};
	}

	function change(cell, cls, [main = '', rest, tone, title]) {
		text(cell.main, main);
		if (rest && !cell.rest) cell.td.append(' ', cell.rest = make('span'));
		if (cell.rest) text(cell.rest, rest || '');
		attr(cell.td, 'class', `${cls} ${tone || ''} ${main === '' ? 'none' : ''}`.trim());
		attr(cell.td, 'title', title);
	}

	function fill() {
		while (rows.length < items.length) add();
		while (rows.length > items.length) rows.pop().tr.remove();
		items.forEach((item, i) => {
			const row = rows[i];
			row.tr.hidden = !keep(item);
			if (row.tr.hidden) return;
			columns.forEach(([, cls, cell], n) => change(row.cells[n], cls, cell(item, i)));
			attr(row.tr, 'class', details && troubled(item) ? 'troubled' : '');
			if (row.more && !row.more.hidden) pairs(row.more.firstChild, details(item));
		});
		const by = columns[sorted][3];
		if (!by) return;
		heads.forEach((th, n) => attr(th, 'aria-sort', n === sorted ? 'ascending' : ''));
		const keys = items.map(by);
		const now = rows.map((_, i) => i).sort((a, b) => keys[a] < keys[b] ? -1 : keys[a] > keys[b] ? 1 : a - b);
		if (order === now.join()) return;
		order = now.join();
		body.append(...now.map(i => rows[i].tr));
	}

	return list => {
		items = list;
		fill();
		return items.filter(keep).length;
	};
}

const filters = [['All', () => true], ['Troubled', troubled], ['Busy', w => w.in_hand > 0]];
let filter = filters[0];
const showWorkers = table($('workers'), workerColumns, w => filter[1](w), details);
const showSources = table($('sources'), sourceColumns, () => true);

function showList() {
	if (doc.workers.some(w => w.status)) $('workers').className = ''; // permanently, so that columns do not jump
	$('nobody').hidden = showWorkers(doc.workers) > 0;
	put('nobody', `No worker is ${filter[0].toLowerCase()}.`);
	filters.forEach((f, i) => {
		const button = $('filters').children[i] ?? $('filters').appendChild(make('button', { class: i > 1 ? 'm' : '' }));
		text(button, `${f[0]} ${num(doc.workers.filter(f[1]).length)}`);
		attr(button, 'aria-pressed', f === filter);
		button.onclick = () => { filter = f; showList(); };
	});
}

function headline(word, why, tone) {
	text($('state').firstChild, word);
	text($('state').lastChild, why);
	document.body.dataset.tone = tone;
	document.title = `${word} · ${location.host}`;
}

function showState() {
	const bad = doc.workers.filter(troubled).length;
	if (doc.stopping) headline('Stopping', doc.stopping, 'warn');
	else if (!doc.ready) headline('Not ready', doc.reason, 'bad');
	else headline('Ready', [doc.reload.state === 'running' && 'reload running', bad && `troubled workers: ${num(bad)}`].filter(x => x).join(', '), 'good');
	pairs($('facts'), [['version', doc.version], ['PID', doc.pid], ['up', age(doc.uptime_seconds)], ['generation', doc.generation], ['orphans reaped', num(doc.orphans_reaped)]]);
}

function showPool() {
	const states = ['busy', 'ready', 'starting', 'stopping', 'detached', 'backoff', 'stopped'], all = doc.workers.length;
	const many = states.map(s => doc.workers.filter(w => w.state === s).length);
	put('serving', num(many[0] + many[1]));
	put('wanted', `of ${num(doc.workers_wanted)} ready`);
	states.forEach((s, i) => {
		const part = $('bar').children[i] ?? $('bar').appendChild(make('i', { class: s }));
		const word = $('legend').children[i] ?? $('legend').appendChild(make('span', { class: s }));
		part.style.flexGrow = many[i];
		part.hidden = !many[i];
		word.hidden = !many[i] && (i > 1 || i < 1 && !doc.queue); // ready and busy stay in place
		text(word, `${num(many[i])} ${s}`);
	});

	const r = doc.reload, running = r.state === 'running', to = r.generation ? `generation ${r.generation}, ` : '';
	put('reload', r.state);
	put('replaced', running || r.state === 'failed' ? `${num(r.replaced)} of ${num(all)}` : '');
	attr($('progress').parentNode, 'class', { failed: 'bad', running: 'busy' }[r.state]);
	$('progress').firstChild.style.width = `${100 * r.replaced / all}%`;
	put('when', r.state === 'none' ? 'since the start' : to + (running ? `for ${age(r.seconds ?? 0)}${r.queued ? ', another follows' : ''}`
		: `${r.began ? `${ago(r.began)}, ` : ''}took ${age(r.seconds ?? 0)}`));
	put('why', r.reason);
}

function showMessages() {
	const steps = of => samples.slice(1).map((s, i) => [s.t, s.t - samples[i].t, of(s, samples[i])]);
	const top = all => Math.max(...all.map(x => x[2]), 0);
	const done = s => s.done, failed = s => s.failed;
	const rates = steps((s, before) => growth(done, s, before)), peak = top(rates), now = growth(failed);
	const [all, bad] = $('rates').children;
	chart(all, rates, Math.max(peak, 1));
	chart(bad, steps((s, before) => growth(failed, s, before)), Math.max(peak, 1));
	put('rate', rate(growth(done)));
	put('failing', `failed ${rate(now)}/s`);
	attr($('failing'), 'class', now ? 'bad' : '');
	put('peak', `peak ${rate(peak)}`);
	put('share', `${percent(100 * growth(s => s.busy) / doc.workers.length)} busy`);

	const q = doc.queue, depths = steps(s => s.depth), deepest = Math.max(top(depths), q.messages);
	chart($('depths').firstChild, depths, Math.max(deepest, 10));
	put('flying', `in hand ${num(q.in_flight)}`);
	put('depth', num(q.messages));
	put('oldest', q.paused ? 'paused' : q.messages ? `oldest ${age(q.oldest_seconds)}` : 'waiting');
	put('bytes', size(q.bytes) + (q.delayed ? `, ${num(q.delayed)} delayed` : ''));
	put('deepest', `peak ${num(deepest)}`);
	const byCount = q.messages / q.limit_messages || 0, byBytes = q.bytes / q.limit_bytes || 0;
	const full = 100 * Math.max(byCount, byBytes);
	put('full', `${percent(full)} of ${byBytes > byCount ? size(q.limit_bytes) : num(q.limit_messages)}`);
	attr($('fill'), 'class', `bar ${full > 95 ? 'bad' : full > 70 ? 'warn' : ''}`);
	attr($('fill'), 'aria-valuenow', Math.round(full));
	$('fill').firstChild.style.width = `${full}%`;

	pairs($('totals'), counts.map(([key, tone]) => {
		const n = sum(doc.sources, key);
		return [spaced(key), num(n), n && tone || ''];
	}));
	showSources(doc.sources);
}

function show(answer) {
	if (doc && doc.version !== answer.version) location.reload(); // another binary has another page
	if (doc?.started !== answer.started) samples = []; // another pool
	doc = answer;
	remember();
	document.body.classList.toggle('plain', !doc.queue);
	$('main').hidden = false;
	showState();
	showPool();
	if (doc.queue) showMessages();
	showList();
}

let asking, timer, next, answered, misses = 0, trouble;

async function ask() {
	const answer = await fetch('status.json', { cache: 'no-store', signal: AbortSignal.timeout(5000) });
	if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
	return answer.json();
}

async function poll() {
	clearTimeout(timer);
	if (asking || document.hidden) return; // resumed by visibilitychange
	asking = true;
	const began = Date.now();
	let answer;
	try {
		answer = await ask();
		answered = Date.now();
		misses = 0;
	} catch (err) {
		misses++;
		trouble = err.message.startsWith('HTTP') ? ` (${err.message})` : '';
	}
	asking = false;
	next = misses ? Date.now() + Math.min(500 * 2 ** misses, 8000) : Math.max(began + 1000, Date.now() + 200);
	timer = setTimeout(poll, next - Date.now());
	document.body.classList.toggle('gone', misses > 0);
	silence();
	if (answer) show(answer);
}

// silence shows that there is no answer, and since when.
function silence() {
	const left = Math.ceil((next - Date.now()) / 1000);
	put('ago', misses ? `trying again${left > 0 ? ` in ${left}s` : ''}` : '');
	if (!misses) return;
	const then = doc?.stopping ? `; it was stopping: ${doc.stopping}` : doc ? '; below is how it was' : '';
	headline('No answer', (answered ? `since ${time(answered).slice(11)}` : 'yet') + trouble + then, 'bad');
}

put('host', location.host);
setInterval(silence, 1000);
document.addEventListener('visibilitychange', poll);
poll();
