// Theme, and the order and choice of clips. The page is whole without it.
"use strict";

(function () {
  const root = document.documentElement;
  const kept = {
    // Pages from disk may be denied storage; the choice then lasts as long as the page.
    read() { try { return localStorage.getItem("theme"); } catch { return null; } },
    write(theme) { try { localStorage.setItem("theme", theme); } catch { /* not kept */ } },
  };

  function shown() {
    if (root.dataset.theme) return root.dataset.theme;
    return matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  }

  function theme() {
    const button = document.getElementById("theme");
    const label = () => { button.textContent = shown() === "dark" ? "\u2600 Light" : "\u263e Dark"; };
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      kept.write(root.dataset.theme);
      label();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
    label();
    button.hidden = false;
  }

  const byNumber = (name, sign) => (a, b) => sign * (a.dataset[name] - b.dataset[name]);
  const ORDERS = {
    worse: byNumber("worse", -1),
    better: byNumber("worse", 1),
    id: (a, b) => a.dataset.id.localeCompare(b.dataset.id, undefined, { numeric: true }),
    longest: byNumber("seconds", -1),
    shortest: byNumber("seconds", 1),
  };

  function clips() {
    const list = document.getElementById("clip-list");
    if (!list) return;
    const controls = document.getElementById("controls");
    const [search, task, which, order] = ["search", "task", "which", "order"].map((id) => document.getElementById(id));
    const all = Array.from(list.children);
    const texts = new Map(all.map((clip) => [clip, clip.textContent.toLowerCase()]));

    function wanted(clip) {
      const worse = Number(clip.dataset.worse);
      if (which.value === "changed" && clip.dataset.changed !== "yes") return false;
      if (which.value === "worse" && worse <= 0) return false;
      if (which.value === "better" && worse >= 0) return false;
      if (task.value && clip.dataset.task !== task.value) return false;
      return texts.get(clip).includes(search.value.trim().toLowerCase());
    }

    function choose() {
      let count = 0;
      for (const clip of all) {
        clip.hidden = !wanted(clip);
        if (clip.hidden) clip.querySelector("audio")?.pause();
        else count += 1;
      }
      document.getElementById("count").textContent = `${count} of ${all.length} clips`;
    }

    function sort() { list.append(...all.sort(ORDERS[order.value])); }

    search.addEventListener("input", choose);
    task.addEventListener("change", choose);
    which.addEventListener("change", choose);
    order.addEventListener("change", sort);
    // One sound at a time.
    list.addEventListener("play", (event) => {
      for (const other of list.querySelectorAll("audio")) if (other !== event.target) other.pause();
    }, true);
    controls.hidden = false;
    sort(); // a page that was left and come back to keeps what its fields say
    choose();
  }

  const stored = kept.read();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  document.addEventListener("DOMContentLoaded", () => { theme(); clips(); });
})();
