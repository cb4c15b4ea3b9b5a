// Sorts, filters and pages the rows, which are all in the document. Only the rows of one page are laid out.
const find = (id) => document.getElementById(id);
const body = document.querySelector("tbody");
const rows = [...body.rows];
const texts = rows.map((row) => row.textContent.toLowerCase());
const first = rows.map((_, place) => place);
const keys = Object.fromEntries(
  ["number", "rank", "prob"].map((key) => [key, rows.map((row) => (row.dataset[key] === "" ? NaN : Number(row.dataset[key])))]));
let sort = find("sort").value, page = 0;

function compare(key, down) {
  const values = keys[key];
  return (one, other) => {
    const gap = Number.isNaN(values[one]) - Number.isNaN(values[other]); // those without a value come last
    return gap || (down ? values[other] - values[one] : values[one] - values[other]) || one - other;
  };
}

function show() {
  const [key, way] = sort.split(" ");
  const outcome = find("outcome").value, text = find("text").value.trim().toLowerCase();
  const kept = first.filter((n) => (!outcome || rows[n].dataset.outcome === outcome) && texts[n].includes(text));
  if (key !== "rank" || way === "down") kept.sort(compare(key, way === "down"));
  const pages = Math.max(1, Math.ceil(kept.length / SIZE));
  page = Math.min(page, pages - 1);
  body.replaceChildren(...kept.slice(page * SIZE, (page + 1) * SIZE).map((n) => rows[n]));
  body.classList.add("ready");
  find("said").textContent = `${kept.length} of ${rows.length} studies`;
  find("place").textContent = `Page ${page + 1} of ${pages}`;
  find("back").disabled = page === 0;
  find("next").disabled = page === pages - 1;
  for (const head of document.querySelectorAll("th[data-key]")) {
    if (head.dataset.key === key) head.setAttribute("aria-sort", way === "down" ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function restart() { page = 0; show(); }
function turn(by) { page += by; show(); scrollTo(0, 0); }

find("outcome").addEventListener("change", restart);
find("text").addEventListener("input", restart);
find("sort").addEventListener("change", () => { sort = find("sort").value; restart(); });
find("back").addEventListener("click", () => turn(-1));
find("next").addEventListener("click", () => turn(1));
document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
for (const head of document.querySelectorAll("th[data-key]")) {
  head.firstElementChild.addEventListener("click", () => {
    const key = head.dataset.key, usual = key === "prob" ? "down" : "up";
    const other = usual === "up" ? "down" : "up";
    sort = `${key} ${sort === `${key} ${usual}` ? other : usual}`;
    find("sort").value = sort;
    restart();
  });
}
show();
