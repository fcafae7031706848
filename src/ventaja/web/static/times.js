// Times as the reader's own clock and language have them.
"use strict";

for (const time of document.querySelectorAll("time[data-at]")) {
  const at = new Date(Number(time.dataset.at) * 1000);
  time.dateTime = at.toISOString();
  time.textContent = at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
