// Charts over time, in SVG: lines or stacked areas, with the events of the server's life cycle.
// A chart is given numbers and names; every text goes into the page by textContent.

const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 52, RIGHT = 8, TOP = 12, BOTTOM = 20;

export function element(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

function shape(name, attributes, text) {
  const found = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
}

export function clock(seconds, withSeconds = true) {
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (withSeconds) options.second = "2-digit";
  return new Date(seconds * 1000).toLocaleTimeString([], options);
}

// The steps of an axis: 1, 2 or 5 times a power of ten; of two, for bytes.
function stepsUpTo(most, binary) {
  const base = binary ? 2 ** (10 * Math.floor(Math.log2(Math.max(most, 1)) / 10)) : 1;
  const rough = most / base / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = base * power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const steps = [];
  for (let at = 0; at < most + step * 0.999; at += step) steps.push(at);
  return steps;
}

// One that others share, so that the same moment is marked in all charts.
const charts = new Set();
let moment = null;

function point(at) {
  moment = at;
  for (const chart of charts) chart.mark();
}

export class Chart {
  // series: [{name, key, over}], the first one at the bottom of a stack. One that is over the stack is
  // a line, comes after the others, and is a part of what they add up to. format: a number to text.
  constructor(title, series, { stacked = false, log = false, binary = false, least = 0, format }) {
    Object.assign(this, { title, series, stacked, log, binary, least, format });
    this.legend = element("div", { class: "legend" });
    this.values = series.map(() => element("b"));
    this.keys = series.map(({ name, key }, number) =>
      element("span", {}, element("span", { class: `key k-${key}` }), `${name} `, this.values[number]));
    this.legend.append(...this.keys);
    this.when = element("div", { class: "when" });
    this.svg = shape("svg", { role: "img", "aria-label": title });
    this.root = element("div", { class: "chart" },
      element("div", { class: "head" }, element("h2", {}, title), this.legend), this.svg, this.when);
    this.times = [];
    this.data = series.map(() => []);
    this.events = [];
    this.svg.addEventListener("pointermove", (event) => point(this.timeAt(event)));
    this.svg.addEventListener("pointerleave", () => point(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
    charts.add(this);
  }

  // times: seconds since the epoch; data: for each series, a number or null for each time; or null
  // where the server does not count it.
  show(times, data, begin, end, events) {
    this.keys.forEach((key, number) => { key.hidden = data[number] === null; });
    Object.assign(this, { times, data: data.map((values) => values ?? []), begin, end, events });
    this.draw();
  }

  timeAt(event) {
    const box = this.svg.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    return this.begin + share * (this.end - this.begin);
  }

  x(at) {
    return LEFT + ((at - this.begin) / (this.end - this.begin)) * (this.width - LEFT - RIGHT);
  }

  y(value) {
    const height = this.height - TOP - BOTTOM;
    if (!this.log) return TOP + height * (1 - value / this.top);
    const share = Math.log(Math.max(value, this.floor) / this.floor) / Math.log(this.top / this.floor);
    return TOP + height * (1 - share);
  }

  draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width || this.begin === undefined) return;
    Object.assign(this, { width, height });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.stack();
    const steps = this.scale();
    const parts = [];
    for (const step of steps) {
      const y = this.y(step);
      parts.push(shape("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      parts.push(shape("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, this.format(step)));
    }
    parts.push(...this.timeAxis(), ...this.marks());
    const known = this.times.filter((at) => at >= this.begin).length;
    if (known) parts.push(...this.stacked ? this.areas() : [], ...this.lines());
    else parts.push(shape("text", { class: "none", x: (LEFT + width - RIGHT) / 2, y: height / 2 },
      "nothing in this time yet"));
    this.cursor = shape("g", {});
    this.svg.replaceChildren(...parts, this.cursor);
    this.mark();
  }

  // The upper edges of the areas, where they stand on each other.
  stack() {
    if (!this.stacked) {
      this.edges = this.data;
      return;
    }
    this.edges = [];
    let below = this.times.map(() => 0);
    this.data.forEach((values, number) => {
      if (this.series[number].over) {
        this.edges.push(values);
        return;
      }
      below = values.map((value, index) => value === null ? null : below[index] + value);
      this.edges.push(below);
      below = below.map((value) => value ?? 0);
    });
  }

  scale() {
    let most = 0, smallest = Infinity;
    for (const values of this.edges) {
      values.forEach((value, index) => {
        if (value === null || this.times[index] < this.begin) return;
        most = Math.max(most, value);
        if (value > 0) smallest = Math.min(smallest, value);
      });
    }
    if (!this.log) {
      const steps = stepsUpTo(Math.max(most, this.least), this.binary);
      this.top = steps.at(-1);
      return steps;
    }
    this.floor = Math.min(10 ** Math.floor(Math.log10(Math.min(smallest, 0.001) * 1.0001)), 0.001);
    this.top = 10 ** Math.max(Math.ceil(Math.log10(Math.max(most, 1e-9)) - 1e-9), Math.log10(this.floor) + 2);
    const steps = [];
    for (let at = this.floor; at <= this.top * 1.01; at *= 10) steps.push(at);
    return steps;
  }

  timeAxis() {
    const parts = [], span = this.end - this.begin;
    const room = Math.max(2, Math.floor((this.width - LEFT) / 80));
    const step = [10, 30, 60, 120, 300, 600, 900, 1800].find((each) => span / each <= room) ?? 3600;
    const bottom = this.height - BOTTOM;
    parts.push(shape("line", { class: "axis", x1: LEFT, x2: this.width - RIGHT, y1: bottom, y2: bottom }));
    for (let at = Math.ceil(this.begin / step) * step; at <= this.end; at += step) {
      const x = this.x(at);
      if (x > this.width - 22) continue;
      parts.push(shape("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }));
      parts.push(shape("text", { x, y: this.height - 4, "text-anchor": "middle" }, clock(at, step < 60)));
    }
    return parts;
  }

  marks() {
    const parts = [];
    for (const event of this.events) {
      if (event.at < this.begin || event.at > this.end) continue;
      const x = this.x(event.at);
      const group = shape("g", { class: `e-${event.kind.replace(/[^a-z]/g, "-")}` });
      group.append(
        shape("title", {}, `${clock(event.at)} ${event.kind}: ${event.text}`),
        shape("line", { class: "event-line", x1: x, x2: x, y1: TOP - 2, y2: this.height - BOTTOM }),
        shape("path", { class: "event-mark", d: `M${x - 4} ${TOP - 10}h8l-4 7z` }));
      parts.push(group);
    }
    return parts;
  }

  // The runs of values without a gap, each a list of places.
  runs(values) {
    const found = [];
    let run = [];
    values.forEach((value, index) => {
      const shown = value !== null && this.times[index] >= this.begin;
      const gap = index > 0 && this.times[index] - this.times[index - 1] > 60;
      if (run.length && (!shown || gap)) {
        found.push(run);
        run = [];
      }
      if (shown) run.push(index);
    });
    if (run.length) found.push(run);
    return found;
  }

  path(places, values) {
    return places.map((index, number) =>
      `${number ? "L" : "M"}${this.x(this.times[index]).toFixed(1)} ${this.y(values[index]).toFixed(1)}`).join("");
  }

  lines() {
    const parts = [];
    this.data.forEach((values, number) => {
      if (this.stacked && !this.series[number].over) return;
      const key = `k-${this.series[number].key}`;
      for (const run of this.runs(values)) {
        if (run.length > 1) parts.push(shape("path", { class: `line ${key}`, d: this.path(run, values) }));
        else parts.push(shape("circle", { class: `dot ${key}`, r: 2, cx: this.x(this.times[run[0]]), cy: this.y(values[run[0]]) }));
      }
    });
    return parts;
  }

  areas() {
    const parts = [];
    const zero = this.times.map(() => 0);
    this.edges.forEach((edge, number) => {
      if (this.series[number].over || !this.data[number].some((value) => value)) return;
      const below = number ? this.edges[number - 1] : zero;
      const key = `k-${this.series[number].key}`;
      for (const run of this.runs(edge)) {
        const back = [...run].reverse();
        let shown = `${this.path(run, edge)}${this.path(back, below).replace("M", "L")}Z`;
        if (run.length === 1) { // one moment has no width yet
          const x = this.x(this.times[run[0]]), [from, to] = [below, edge].map((of) => this.y(of[run[0]]));
          shown = `M${x - 2} ${from}V${to}h4V${from}Z`;
        }
        parts.push(shape("path", { class: `area ${key}`, d: shown }));
      }
    });
    return parts;
  }

  // Show the values of the moment that is pointed at, or else the last ones.
  mark() {
    let index = this.times.length - 1;
    this.cursor?.replaceChildren();
    this.when.textContent = "";
    if (moment !== null && this.times.length && this.width) {
      let nearest = Infinity;
      this.times.forEach((at, place) => {
        if (Math.abs(at - moment) < nearest) [nearest, index] = [Math.abs(at - moment), place];
      });
      const x = this.x(this.times[index]);
      if (x >= LEFT) {
        this.cursor.append(shape("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: this.height - BOTTOM }));
        const near = this.events.filter((event) => Math.abs(event.at - this.times[index]) < (this.end - this.begin) / 120);
        this.when.textContent = [clock(this.times[index]), ...near.map((event) => event.kind)].join(" · ");
      }
    }
    this.data.forEach((values, number) => {
      const value = values[index];
      this.values[number].textContent = value === null || value === undefined ? "-" : this.format(value);
    });
    const said = this.keys.filter((key) => !key.hidden).map((key) => key.textContent);
    this.svg.setAttribute("aria-label", `${this.title}: ${said.join(", ")}`);
  }
}
