// The dashboard: asks the server every two seconds, one request after the other, and shows the answers.
// Whatever comes from a client of the server (a path, an address) goes into the page by textContent.

import { Chart, clock, element } from "./charts.js";

const POLL = 2000, FINDINGS = 10000, LONGEST_PAUSE = 30000, PATIENCE = 15000;
const HOUR = 3600, ROWS_AT_ONCE = 60, SHORTEST_SPAN = 120, FEW = 4;
const STORED = "penstock-token";

const get = (id) => document.getElementById(id);
const past = { names: new Map(), bounds: [], rows: [], now: null, events: new Map() };
const state = { token: "", span: HOUR, since: null, generation: null, findingsAt: 0, looking: false, again: false, failures: 0, workers: new Map(), timer: 0 };
class Refused extends Error {}

// -- asking ----------------------------------------------------------------------------------------

function remember(token) {
  state.token = token;
  try {
    if (token) sessionStorage.setItem(STORED, token);
    else sessionStorage.removeItem(STORED);
  } catch { /* the browser keeps nothing: the token lasts until the page is loaded again */ }
}

function recall() {
  const given = /^#token=(.+)$/.exec(location.hash);
  if (given) {
    history.replaceState(null, "", location.pathname + location.search);
    remember(decodeURIComponent(given[1]));
    return;
  }
  try {
    state.token = sessionStorage.getItem(STORED) ?? "";
  } catch { /* as above */ }
}

async function ask(path) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE) });
  if (answer.status === 401) throw new Refused();
  const value = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
  if (!answer.ok) throw new Error(value.error ?? `status ${answer.status}`);
  return value;
}

const queries = () => get("queries").checked ? "1" : "0";

async function askHistory() {
  for (let more = 1; more > 0;) {
    const last = past.rows.at(-1)?.[0] ?? 0;
    const answer = await ask(`history?since=${Math.floor(last)}&most=${ROWS_AT_ONCE}&queries=${queries()}`);
    past.names = new Map(answer.names.map((name, place) => [name, place]));
    past.bounds = answer.bounds;
    for (const row of answer.rows) if (row[0] > last) past.rows.push(row);
    for (const event of answer.events) past.events.set(event.number, event);
    past.now = answer.now;
    more = answer.more;
  }
  const oldest = past.now[0] - HOUR - 30;
  while (past.rows.length && past.rows[0][0] < oldest) past.rows.shift();
  for (const number of past.events.keys()) if (past.events.size > 200) past.events.delete(number);
}

function forget() {
  past.rows = [];
  past.events.clear();
  state.workers.clear();
  state.findingsAt = 0;
}

async function look() {
  const status = await ask(`status?queries=${queries()}`);
  if (state.since !== null && status.since !== state.since) forget(); // another supervisor counts anew
  state.since = status.since;
  await askHistory();
  const workers = await ask("workers");
  const requests = await ask(`requests?queries=${queries()}`);
  showStatus(status);
  showTiles(status);
  showCharts(status);
  showRequests(requests);
  showWorkers(workers);
  showEvents();
  showCertificates(status.certificates);
  if (Date.now() - state.findingsAt > FINDINGS) {
    showFindings(await ask(`findings?queries=${queries()}`));
    notable = { slow: (await ask("slow")).slow, failed: (await ask("failed")).failed, refused: (await ask("refused")).refused };
    showNotable();
    state.findingsAt = Date.now();
  }
  if (status.generation !== state.generation) {
    showSettings(await ask("settings"));
    state.generation = status.generation;
  }
}

// One look at a time: a click that wants another one has it after that which is under way.
async function poll() {
  clearTimeout(state.timer);
  if (document.hidden) return; // it goes on when the page is looked at again
  if (state.looking) {
    state.again = true;
    return;
  }
  state.looking = true;
  const pause = await lookOnce();
  state.looking = false;
  if (pause === null) return;
  state.timer = setTimeout(poll, state.again ? 0 : pause);
  state.again = false;
}

// Returns the milliseconds until the next look; null where a token has to be given first.
async function lookOnce() {
  if (!state.token && document.documentElement.dataset.token === "needed") {
    showLogin();
    return null;
  }
  const token = state.token;
  let pause = POLL;
  try {
    await look();
    if (state.token !== token) return 0; // another one was given, or it was taken back
    state.failures = 0;
    get("login").hidden = true;
    get("page").hidden = false;
    get("trouble").hidden = true;
    get("forget").hidden = !state.token;
    get("updated").textContent = `As of ${clock(past.now[0])}.`;
  } catch (error) {
    if (state.token !== token) return 0;
    if (error instanceof Refused) {
      showLogin();
      return null;
    }
    state.failures += 1;
    pause = Math.min(POLL * 2 ** state.failures, LONGEST_PAUSE);
    get("page").hidden = false;
    get("trouble").hidden = false;
    get("trouble").textContent = `The server has not answered (${error.message}); the next try is in ${Math.round(pause / 1000)} s.`;
  }
  return pause;
}

function showLogin() {
  get("login-error").textContent = state.token ? "This is not the token of this server." : "";
  remember("");
  forget();
  get("page").hidden = true;
  get("login").hidden = false;
  get("token").focus();
}

// -- numbers ---------------------------------------------------------------------------------------

const value = (row, name) => row[past.names.get(name)] ?? 0;
const grown = (from, to, name) => Math.max(0, value(to, name) - value(from, name));
const sum = (from, to, name) => grown(from, to, `${name}.seconds`);

function counts(from, to, name) {
  const found = [];
  for (let bucket = 0; bucket <= past.bounds.length; bucket++) found.push(grown(from, to, `${name}.${bucket}`));
  return found;
}

// As control/past.py has it: interpolated within a bucket; beyond the last bound it is that bound.
function quantile(buckets, share) {
  const all = buckets.reduce((total, count) => total + count, 0);
  if (!all) return null;
  let seen = 0, lower = 0;
  for (let bucket = 0; bucket < past.bounds.length; bucket++) {
    if (buckets[bucket] && seen + buckets[bucket] >= share * all) {
      return lower + (past.bounds[bucket] - lower) * (share * all - seen) / buckets[bucket];
    }
    seen += buckets[bucket];
    lower = past.bounds[bucket];
  }
  return lower;
}

const CLASSES = ["1xx", "2xx", "3xx", "4xx", "5xx"];

// What has happened between two rows.
function between(from, to) {
  const seconds = to[0] - from[0];
  const buckets = counts(from, to, "duration");
  const finished = buckets.reduce((total, count) => total + count, 0);
  const mean = (name) => finished ? sum(from, to, name) / finished : null;
  const [duration, queue, application] = ["duration", "queue", "application"].map(mean);
  return {
    rates: CLASSES.map((each) => grown(from, to, `status.${each}`) / seconds),
    finished, rate: finished / seconds,
    p50: quantile(buckets, 0.5), p95: quantile(buckets, 0.95), p99: quantile(buckets, 0.99),
    queue, application,
    sending: duration === null ? null : Math.max(0, duration - queue - application),
    lock: mean("request_lock_wait"),
    cpu: grown(from, to, "cpu_seconds") / seconds,
    shed: grown(from, to, "queue_full") + grown(from, to, "queue_timeout"),
    received: grown(from, to, "bytes_received") / seconds, sent: grown(from, to, "bytes_sent") / seconds,
  };
}

function number(count, digits = 3) {
  if (!Number.isFinite(count)) return "-";
  if (count >= 100000) return `${(count / 1000).toFixed(0)}k`;
  if (count >= 10000) return `${(count / 1000).toFixed(1)}k`;
  if (count >= 100 || Number.isInteger(count)) return count.toFixed(0);
  return String(Number(count.toPrecision(digits)));
}

function time(seconds) {
  if (seconds === null) return "-";
  if (seconds < 1e-9) return "0"; // what is left of a difference of sums
  if (seconds < 0.00095) return `${Number((seconds * 1e6).toPrecision(2))} µs`;
  if (seconds < 0.995) return `${Number((seconds * 1000).toPrecision(seconds < 0.1 ? 2 : 3))} ms`;
  return `${Number(seconds.toPrecision(3))} s`;
}

function age(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const [days, hours, minutes] = [86400, 3600, 60].map((unit) => Math.floor(seconds / unit));
  if (days) return `${days} d ${hours % 24} h`;
  return hours ? `${hours} h ${minutes % 60} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}

function bytes(count) {
  if (count === null || count === undefined) return "-";
  const power = count ? Math.min(Math.floor(Math.log2(count) / 10), 4) : 0;
  return power > 0 ? `${Number((count / 2 ** (10 * power)).toPrecision(3))} ${["", "KiB", "MiB", "GiB", "TiB"][power]}` : `${number(count)} B`;
}

const percent = (share) => `${Number((share * 100).toPrecision(2))} %`;

// -- the page --------------------------------------------------------------------------------------

function showStatus(status) {
  document.title = `${status.application} - Penstock`;
  get("application").textContent = status.application;
  const well = status.ready && status.live && status.state === "serving";
  get("state").textContent = status.ready ? status.state : `${status.state}, not ready`;
  get("state").className = `badge ${well ? "good" : status.live && status.state !== "down" ? "warn" : "bad"}`;
  get("about").textContent = [
    `up ${age(status.age)}`, `generation ${status.generation}`, `${status.workers} x ${status.threads} threads`,
    status.transport, `Penstock ${status.version}`,
  ].join(" · ");
  get("about").title = status.listeners.join(" ");
}

function recent() {
  const before = past.rows.filter((row) => past.now[0] - row[0] >= 8);
  return before.length ? between(before.at(-1), past.now) : null;
}

function tile(name, text, note = "", level = "") {
  return element("div", { class: `tile ${level}` }, element("div", { class: "name" }, name),
    element("div", { class: "value" }, text), element("div", { class: "note", title: note }, note));
}

function showTiles(status) {
  const now = (name) => value(past.now, name);
  const last = recent();
  const errors = last && last.rate ? last.rates[4] / last.rate : 0;
  const busy = now("threads") ? now("busy") / now("threads") : 0;
  const memory = now("memory");
  get("tiles").replaceChildren(
    tile("Requests", last ? `${number(last.rate)}/s` : "-", `${number(now("requests"))} since the start`),
    tile("Half within", last ? time(last.p50) : "-", "p50"),
    tile("95 % within", last ? time(last.p95) : "-", "p95"),
    tile("99 % within", last ? time(last.p99) : "-", "p99"),
    tile("Errors (5xx)", last ? percent(errors) : "-", `${number(now("status.5xx"))} since the start`, errors > 0.02 ? "bad" : errors > 0 ? "warn" : ""),
    tile("Threads busy", `${number(now("busy"))} of ${number(now("threads"))}`, percent(busy), busy > 0.85 ? "warn" : ""),
    tile("Waiting", number(now("waiting")), last?.shed ? `${number(last.shed)} got 503` : "for a thread", last?.shed ? "bad" : now("waiting") ? "warn" : ""),
    tile("Connections", number(now("connections")), `${number(now("websockets"))} WebSockets`),
    tile("Processors", last ? number(last.cpu, 2) : "-", `of ${number(status.cpus)}`, last && last.cpu > 0.9 * status.cpus ? "warn" : ""),
    tile("Memory", bytes(memory), `largest worker ${bytes(now("largest_worker"))}`),
    tile("Received", last ? `${bytes(last.received)}/s` : "-", last ? `sent ${bytes(last.sent)}/s` : ""),
    tile("Crashed", number(now("crashed")), `${number(now("recycled"))} recycled`, status.state === "down" ? "bad" : ""),
  );
}

const charts = {
  rate: new Chart("Requests a second", CLASSES.map((name) => ({ name, key: name })), { stacked: true, least: 1, format: number }),
  time: new Chart("Response time", ["p50", "p95", "p99"].map((name) => ({ name, key: name })), { log: true, format: time }),
  phases: new Chart("Mean time by phase", [...["queue", "application", "sending"].map((name) => ({ name, key: name })), { name: "lock wait", key: "lock", over: true }], { stacked: true, least: 0.001, format: time }),
  threads: new Chart("Threads and queue", [{ name: "threads", key: "threads" }, { name: "busy", key: "busy" }, { name: "waiting", key: "waiting" }], { least: 1, format: number }),
  cpu: new Chart("Processors", [{ name: "available", key: "cpus" }, { name: "used", key: "cpu" }], { least: 1, format: (count) => number(count, 2) }),
  memory: new Chart("Memory of the workers", [{ name: "resident", key: "memory" }], { stacked: true, binary: true, least: 1 << 20, format: bytes }),
};

function showCharts(status) {
  const rows = [...past.rows];
  if (!rows.length || past.now[0] - rows.at(-1)[0] >= 5) rows.push(past.now);
  const spans = rows.slice(1).map((row, index) => between(rows[index], row));
  const times = rows.slice(1).map((row) => row[0]);
  const end = past.now[0];
  const begin = end - Math.min(state.span, Math.max(SHORTEST_SPAN, end - rows[0][0]));
  const events = [...past.events.values()];
  const show = (chart, ...series) => chart.show(times, series, begin, end, events);
  const of = (name) => spans.map((span) => span[name]);
  const at = (name) => rows.slice(1).map((row) => value(row, name));
  show(charts.rate, ...CLASSES.map((_, place) => spans.map((span) => span.rates[place])));
  show(charts.time, of("p50"), of("p95"), of("p99"));
  const locks = status.transport === "native" ? of("lock") : null; // the other one cannot measure it
  show(charts.phases, of("queue"), of("application"), of("sending"), locks);
  show(charts.threads, at("threads"), at("busy"), at("waiting"));
  show(charts.cpu, times.map(() => status.cpus), of("cpu"));
  show(charts.memory, at("memory"));
}

const cell = (content, kind = "") => element("td", { class: kind }, content);

// Rows are kept while they are about the same, so that a click and a selection outlast an answer.
function showRows(table, rows, keyOf, make) {
  const body = get(table).tBodies[0];
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const shown = rows.map((each) => {
    const key = String(keyOf(each));
    const row = before.get(key) ?? element("tr");
    row.dataset.key = key;
    const cells = make(each, row);
    if (row.cells.length !== cells.length) row.replaceChildren(...cells);
    else cells.forEach((fresh, index) => {
      const old = row.cells[index];
      if (!old.isEqualNode(fresh) && !old.contains(document.activeElement)) old.replaceWith(fresh);
    });
    return row;
  });
  if (shown.some((row, index) => body.rows[index] !== row) || shown.length !== body.rows.length) body.replaceChildren(...shown);
}

function showRequests({ requests, all }) {
  get("requests-count").textContent = all > requests.length ? `the oldest ${requests.length} of ${all}` : all || "";
  get("requests").hidden = !all;
  get("requests-empty").hidden = Boolean(all);
  showRows("requests", requests, (each) => `${each.pid}-${each.thread}-${each.id}`, (each, row) => {
    row.className = "active";
    row.onclick = () => showStack(each.pid, each);
    const left = each.deadline === null ? "-" : `${each.deadline.toFixed(1)} s`;
    const marks = [each.io_bound && "io-bound", each.websocket && "WebSocket"].filter(Boolean);
    const name = element("button", { type: "button", class: "plain mono" }, `${each.method} ${each.target}`);
    return [
      cell(age(each.age), "number"), cell(left, each.deadline !== null && each.deadline < 0 ? "number less late" : "number less"), cell(String(each.worker), "number"),
      cell(each.client || "unix socket", "less"), element("td", { class: "free" }, name, ...marks.map((mark) => ` [${mark}]`)), cell(each.id, "mono less"),
    ];
  });
}

// The line of a head in which a fault is, with an arrow at the byte; the server has masked secrets.
function excerpt({ excerpt: bytes, begin, position }) {
  if (!bytes || position === null) return "";
  const place = position - begin;
  const start = bytes.lastIndexOf("\n", place - 1) + 1;
  const end = bytes.indexOf("\n", place);
  const visible = (text) => text.replace(/[^ -~]/g, (byte) => `\\x${byte.charCodeAt(0).toString(16).padStart(2, "0")}`);
  const before = visible(bytes.slice(start, place));
  return `${before}${visible(bytes.slice(place, end < 0 ? undefined : end + 1))}\n${" ".repeat(before.length)}^`;
}

let notable = { slow: [], failed: [], refused: [] };
let kindShown = "";

// Of all kinds the first ones of each are shown, so that none is below a long list of another.
function showNotable() {
  for (const button of document.querySelectorAll("[data-kind]")) {
    const { kind } = button.dataset;
    button.setAttribute("aria-pressed", String(kind === kindShown));
    if (kind) button.lastElementChild.textContent = notable[kind].length;
  }
  const rows = Object.entries(notable)
    .filter(([kind]) => !kindShown || kind === kindShown)
    .flatMap(([kind, list]) => list.slice(0, kindShown ? undefined : FEW).map((each) => ({ ...each, kind })));
  get("notable").hidden = !rows.length;
  get("notable-empty").hidden = rows.length > 0;
  showRows("notable", rows, (each) => `${each.kind}-${each.id}-${each.at}`, (each) => {
    const where = each.setting ? `setting ${each.setting}` : each.rule;
    const what = each.kind === "refused" ? each.line || "(no request line)" : `${each.method} ${each.path}`;
    const why = [each.reason, where].filter(Boolean).join(" - ");
    const shown = excerpt(each);
    return [
      cell(each.kind), cell(clock(each.at)), cell(each.took === undefined ? "-" : time(each.took), "number"),
      cell(each.status ? String(each.status) : "-", "number"), cell(each.client || "unix socket", "less"),
      element("td", { class: "free" }, element("span", { class: "mono" }, what), ...(why ? [element("p", { class: "why" }, why)] : []),
        ...(shown ? [element("pre", { class: "excerpt" }, shown)] : [])),
      cell(each.id, "mono less"),
    ];
  });
}

function showWorkers({ workers, all }) {
  get("workers-count").textContent = all > workers.length ? `the first ${workers.length} of ${all}` : String(all);
  const now = past.now[0];
  showRows("workers", workers, (each) => `${each.worker}-${each.pid}`, (each, row) => {
    const before = state.workers.get(each.worker);
    const rate = before && now > before.at ? (each.requests - before.requests) / (now - before.at) : null;
    if (!before || now - before.at >= 4) state.workers.set(each.worker, { at: now, requests: each.requests, rate });
    row.className = "active";
    row.onclick = () => showStack(each.pid, null, each.worker);
    const share = each.threads ? Math.min(each.busy / each.threads, 1) : 0;
    const filled = element("i");
    filled.style.width = `${Math.round(share * 100)}%`;
    const meter = element("span", { class: share >= 1 ? "meter full" : "meter" }, filled);
    const level = each.state === "serving" ? "good" : ["stuck", "halted"].includes(each.state) ? "bad" : "warn";
    const beat = each.beat === null ? "-" : `${each.beat.toFixed(1)} s`;
    return [
      element("td", { class: "number" }, element("button", { type: "button", class: "plain" }, String(each.worker))), cell(String(each.pid), "number less"),
      cell(element("span", { class: `badge ${level}` }, each.state)), cell(String(each.generation), "number less"), cell(age(each.age), "number"),
      cell(rate === null ? "-" : number(Math.max(0, rate)), "number"), element("td", {}, meter, `${each.busy} of ${each.threads}`),
      cell(String(each.waiting), each.waiting ? "number late" : "number"), cell(String(each.connections), "number"),
      cell(bytes(each.memory), "number"), cell(beat, each.beat > 2 ? "number less late" : "number less"),
    ];
  });
}

function showEvents() {
  const events = [...past.events.values()].reverse();
  get("events-count").textContent = events.length || "";
  get("events-empty").hidden = events.length > 0;
  const list = get("events");
  const newest = String(events[0]?.number ?? "");
  if (list.dataset.newest === `${state.since} ${newest}`) return;
  list.dataset.newest = `${state.since} ${newest}`;
  const today = new Date().toDateString();
  list.replaceChildren(...events.map((event) => {
    const day = new Date(event.at * 1000);
    const when = day.toDateString() === today ? clock(event.at) : `${day.toLocaleDateString()} ${clock(event.at)}`;
    const kind = element("span", { class: `kind e-${event.kind.replace(/[^a-z]/g, "-")}` }, event.kind);
    return element("li", {}, element("span", { class: "muted" }, when), kind, element("span", {}, event.text));
  }));
}

function showCertificates(certificates) {
  get("certificates-card").hidden = !certificates.length;
  showRows("certificates", certificates.map((each, place) => ({ ...each, place })), (each) => each.place, (each) => {
    const level = each.days < 1 ? "bad" : each.days < 14 ? "warn" : "good";
    const names = each.names.join(", ") || "without a name";
    return [
      element("td", { class: "free" }, each.renewal ? `${names} (${each.renewal})` : names),
      cell(new Date(each.expires * 1000).toLocaleString()),
      element("td", { class: "number" }, element("span", { class: `badge ${level}` }, each.days < 0 ? "expired" : String(each.days))),
    ];
  });
}

function showFindings({ findings }) {
  get("findings").replaceChildren(...findings.map((each) => element(
    "div", { class: each.urgent ? "finding urgent" : "finding" },
    element("b", {}, each.what), element("p", {}, each.advice))));
}

let settings = [];

function showSettings(answer) {
  settings = answer.settings;
  filterSettings();
}

function filterSettings() {
  const wanted = get("settings-filter").value.trim().toLowerCase();
  const all = get("settings-all").checked || wanted !== "";
  const shown = settings.filter((each) => (all || !each.is_default)
    && [each.name, each.value, each.source].some((text) => text.toLowerCase().includes(wanted)));
  get("settings-count").textContent = `${settings.filter((each) => !each.is_default).length} of ${settings.length} are not defaults`;
  showRows("settings", shown, (each) => each.name, (each) => [
    cell(each.name, "mono"), cell(each.value, "free mono"), element("td", { class: each.is_default ? "muted" : "" }, each.source),
  ]);
}

// -- stacks ----------------------------------------------------------------------------------------

let asked = 0;

async function showStack(pid, request, worker) {
  const mine = ++asked;
  const dialog = get("stack");
  get("stack-title").textContent = request ? `${request.method} ${request.target}` : `Worker ${worker}`;
  get("stack-note").textContent = "Asking the worker ...";
  get("stack-own").textContent = get("stack-rest").textContent = "";
  get("stack-others").hidden = true;
  get("stack-again").onclick = () => showStack(pid, request, worker);
  if (!dialog.open) dialog.showModal();
  try {
    const answer = await ask(`stacks?worker=${pid}&queries=${queries()}`);
    if (mine !== asked) return;
    const text = answer.stacks[pid] ?? "";
    const threads = text.split(/\n(?=thread )/);
    const own = request ? threads.find((each) => each.split("\n", 1)[0].includes(`(request ${request.id},`)) : undefined;
    const label = `worker ${answer.workers[pid]}, process ${pid}`;
    if (own === undefined) {
      get("stack-note").textContent = request ? `The request has ended, or cannot be told apart. All threads of ${label}:` : `All threads of ${label}:`;
      get("stack-own").textContent = text;
    } else {
      get("stack-note").textContent = `The thread of this request, in ${label}:`;
      get("stack-own").textContent = own;
      get("stack-rest").textContent = threads.filter((each) => each !== own).join("\n");
      get("stack-others").hidden = threads.length < 2;
    }
  } catch (error) {
    if (mine !== asked) return;
    if (error instanceof Refused) {
      dialog.close();
      showLogin();
      return;
    }
    get("stack-note").textContent = `No stack: ${error.message}`;
  }
}

// -- the start -------------------------------------------------------------------------------------

function chooseSpan(span) {
  state.span = span;
  for (const button of document.querySelectorAll("[data-span]")) button.setAttribute("aria-pressed", String(Number(button.dataset.span) === span));
}

get("charts").append(...Object.values(charts).map((chart) => chart.root));
for (const button of document.querySelectorAll("[data-span]")) {
  button.addEventListener("click", () => {
    chooseSpan(Number(button.dataset.span));
    poll();
  });
}
for (const button of document.querySelectorAll("[data-kind]")) {
  button.addEventListener("click", () => {
    kindShown = button.dataset.kind;
    showNotable();
  });
}
get("queries").addEventListener("change", () => {
  past.events.clear();
  get("events").dataset.newest = "";
  state.findingsAt = 0;
  past.rows = [];
  poll();
});
get("settings-filter").addEventListener("input", filterSettings);
get("settings-all").addEventListener("change", filterSettings);
get("stack-close").addEventListener("click", () => get("stack").close());
get("forget").addEventListener("click", () => {
  remember("");
  showLogin();
});
get("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  remember(get("token").value.trim());
  get("token").value = "";
  poll();
});
document.addEventListener("visibilitychange", () => document.hidden || poll());
window.addEventListener("hashchange", () => {
  recall();
  poll();
});
chooseSpan(HOUR);
recall();
poll();
