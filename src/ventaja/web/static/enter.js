// The secret stands behind the '#', which is never sent. It is handed in once, and the address is made clean.
"use strict";

const said = document.getElementById("said");
const secret = decodeURIComponent(location.hash.slice(1));
history.replaceState(null, "", "/");

async function enter() {
  if (!secret) {
    location.replace("/rank"); // a browser that has been here has its cookie
    return;
  }
  try {
    const response = await fetch("/enter", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ secret }),
    });
    const body = await response.json();
    if (response.ok) location.replace(body.next);
    else said.textContent = body.error;
  } catch {
    said.textContent = "The server does not answer. Is it running?";
  }
}

enter();
// A second link that is opened in the same tab changes only what stands behind the '#'.
window.addEventListener("hashchange", () => location.reload());
