// The order that a rater lays out, as rows from best to worst: a row is a list of tied answers, or the line.
// Every function takes rows and returns new ones.

export const LINE = "line";

export function rowsOf(order) {
  if (!order) return [];
  const rows = order.tiers.map((tier) => [...tier]);
  if (order.line !== null) rows.splice(order.line, 0, LINE);
  return rows;
}

export function orderOf(rows) {
  const line = rows.indexOf(LINE);
  return { tiers: rows.filter((row) => row !== LINE), line: line < 0 ? null : line };
}

export function find(rows, who) {
  return rows.findIndex((row) => row === who || (row !== LINE && row.includes(who)));
}

export function unplaced(rows, count) {
  return [...Array(count).keys()].filter((answer) => find(rows, answer) < 0);
}

// `null` where a row has become empty, so that the places of the others stay as they were for now.
function without(rows, who) {
  return rows.map((row) => {
    if (row === who) return null;
    if (row === LINE || !row.includes(who)) return row;
    const rest = row.filter((answer) => answer !== who);
    return rest.length ? rest : null;
  });
}

const tidy = (rows) => rows.filter((row) => row !== null);

export function insert(rows, who, index) {
  const out = without(rows, who);
  out.splice(index, 0, who === LINE ? LINE : [who]);
  return tidy(out);
}

export function join(rows, who, index) {
  const out = without(rows, who);
  out[index] = [...(out[index] ?? []), who];
  return tidy(out);
}

export function remove(rows, who) {
  return tidy(without(rows, who));
}

// Behind all others: below the line, if one has been drawn.
export function place(rows, who) {
  return insert(rows, who, rows.length);
}

export function move(rows, who, step) {
  const index = find(rows, who);
  if (index < 0) return rows;
  if (rows[index] !== LINE && rows[index].length > 1) return insert(rows, who, step < 0 ? index : index + 1);
  const to = index + step;
  if (to < 0 || to >= rows.length) return rows;
  return insert(rows, who, step < 0 ? to : to + 1);
}

export function tie(rows, who) {
  const index = find(rows, who);
  if (index < 0 || who === LINE) return rows;
  if (rows[index].length > 1) return insert(rows, who, index + 1);
  for (const step of [-1, 1]) {
    for (let other = index + step; other >= 0 && other < rows.length; other += step) {
      if (rows[other] !== LINE) return join(rows, who, other);
    }
  }
  return rows;
}

export function drawLine(rows, who) {
  const now = rows.indexOf(LINE);
  const after = who === null || who === LINE ? rows.length : find(rows, who) + 1;
  if (now >= 0 && (who === null || who === LINE || now === after)) return remove(rows, LINE);
  return insert(rows, LINE, after);
}

export function allGood(rows, count) {
  const rest = unplaced(rows, count);
  const out = remove(rows, LINE);
  if (rest.length) out.push(rest);
  return [...out, LINE];
}

export function allBad(rows) {
  return [LINE, ...remove(rows, LINE)];
}
