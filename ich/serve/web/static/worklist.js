// Asks the server for the same page again and again, and exchanges the rows that changed. A row that did not
// change stays as it is, and a link keeps the focus.
"use strict";

(() => {
  const table = document.getElementById("studies");
  const body = table.tBodies[0];
  const status = document.getElementById("refreshed");

  function exchange(found) {
    const focused = document.activeElement.closest?.("#studies tr")?.id;
    const known = new Map([...body.rows].map((row) => [row.id, row]));
    let changed = 0;
    const rows = [...found.getElementById("studies").tBodies[0].rows].map((row) => {
      const same = known.get(row.id);
      if (same && same.outerHTML === row.outerHTML) return same;
      changed += 1;
      return document.importNode(row, true);
    });
    const order = [...body.rows];
    if (changed === 0 && rows.length === order.length && rows.every((row, n) => row === order[n])) return;
    body.replaceChildren(...rows);
    document.getElementById("counts").replaceWith(document.importNode(found.getElementById("counts"), true));
    if (focused) document.getElementById(focused)?.querySelector("a")?.focus({ preventScroll: true });
    if (changed) status.textContent = `${changed} ${changed === 1 ? "study has" : "studies have"} changed`;
  }

  async function refresh() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { headers: { "X-Refresh": "1", Accept: "text/html" } });
      if (answer.status === 401) location.reload();
      if (answer.ok) exchange(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      status.textContent = "The service cannot be reached. The list may be old.";
    }
  }

  // On a phone the list comes first, unless a filter limits it.
  const isNarrow = matchMedia("(max-width: 48rem)").matches;
  if (isNarrow && !document.querySelector(".filter[data-active]")) document.querySelector(".filters").open = false;

  setInterval(refresh, Number(table.dataset.refresh) * 1000);
})();
