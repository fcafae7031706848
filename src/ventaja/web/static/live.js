// Asks for the page anew every few seconds while it is looked at, and shows what has changed.
"use strict";

async function refresh() {
  if (document.visibilityState !== "visible") return;
  try {
    const response = await fetch(location.href);
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("live-part");
    const here = document.getElementById("live-part");
    if (fresh && fresh.innerHTML !== here.innerHTML) here.replaceWith(document.adoptNode(fresh));
  } catch {
    // the server is away; the next time may do
  }
}

setInterval(refresh, 4000);
