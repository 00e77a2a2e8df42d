// The page of a query: an overlay that zooms, what is said of a spot, structures by candidate.
"use strict";
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const say = (text, event) => {
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
    const below = event.clientY + 18;
    tip.style.top = `${below + height > innerHeight ? event.clientY - height - 10 : below}px`;
  };

  // The titles are for readers without scripts; here they would come a second time.
  const tips = new WeakMap();
  document.querySelectorAll(".overlay circle, .map circle").forEach((circle) => {
    const title = circle.querySelector("title");
    if (!title) return;
    tips.set(circle, title.textContent);
    title.remove();
  });
  document.querySelectorAll(".overlay, .map").forEach((svg) => {
    svg.addEventListener("pointermove", (event) => say(tips.get(event.target), event));
    svg.addEventListener("pointerleave", () => say(""));
  });

  const zoomable = (svg, buttons) => {
    const whole = svg.viewBox.baseVal;
    const [width, height] = [whole.width, whole.height];
    const shown = { x: 0, y: 0, zoom: 1 };
    const show = () => {
      const [w, h] = [width / shown.zoom, height / shown.zoom];
      shown.x = Math.min(Math.max(shown.x, 0), width - w);
      shown.y = Math.min(Math.max(shown.y, 0), height - h);
      svg.setAttribute("viewBox", `${shown.x} ${shown.y} ${w} ${h}`);
    };
    const place = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY);
      return point.matrixTransform(svg.getScreenCTM().inverse());
    };
    const zoom = (factor, at) => {
      const before = shown.zoom;
      shown.zoom = Math.min(Math.max(before * factor, 1), 20);
      const centre = at || {
        x: shown.x + width / before / 2, y: shown.y + height / before / 2,
      };
      shown.x = centre.x - (centre.x - shown.x) * before / shown.zoom;
      shown.y = centre.y - (centre.y - shown.y) * before / shown.zoom;
      show();
    };
    const all = () => { Object.assign(shown, { x: 0, y: 0, zoom: 1 }); show(); };
    svg.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), place(event));
    }, { passive: false });
    svg.addEventListener("dblclick", (event) => zoom(2, place(event)));
    let from = null;
    svg.addEventListener("pointerdown", (event) => {
      if (shown.zoom === 1) return;
      from = place(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!from) return;
      const now = place(event);
      shown.x += from.x - now.x;
      shown.y += from.y - now.y;
      show();
    });
    ["pointerup", "pointercancel"].forEach((name) =>
      svg.addEventListener(name, () => { from = null; }));
    const step = () => width / shown.zoom / 10;
    const keys = {
      "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), "0": all,
      ArrowLeft: () => { shown.x -= step(); show(); },
      ArrowRight: () => { shown.x += step(); show(); },
      ArrowUp: () => { shown.y -= step(); show(); },
      ArrowDown: () => { shown.y += step(); show(); },
    };
    svg.addEventListener("keydown", (event) => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    const actions = { in: () => zoom(1.4), out: () => zoom(1 / 1.4), all };
    buttons.forEach((button) =>
      button.addEventListener("click", actions[button.dataset.zoom]));
  };

  document.querySelectorAll(".explorer").forEach((explorer) => {
    zoomable(explorer.querySelector(".overlay"), explorer.querySelectorAll("[data-zoom]"));
    const pane = explorer.querySelector(".viewer");
    const picks = explorer.querySelectorAll(".picks input");
    const picked = () => [...picks].find((pick) => pick.checked).value;
    let show = null;
    const update = () => { if (show) show(picked()); };
    picks.forEach((pick) => pick.addEventListener("change", update));
    // Drawn once it comes into sight: pages open at once, and browsers draw few such at a time.
    new IntersectionObserver((seen, observer) => {
      if (!seen.some((one) => one.isIntersecting)) return;
      observer.disconnect();
      const draw = solidIn(pane);
      show = (rank) => draw(JSON.parse(
        document.getElementById(`model-${pane.dataset.lattice}-${rank}`).textContent));
      update();
    }).observe(pane);
    document.querySelectorAll(`.show[data-lattice="${pane.dataset.lattice}"]`).forEach((button) =>
      button.addEventListener("click", () => {
        const pick = [...picks].find((one) => one.value === button.dataset.rank);
        pick.checked = true;
        update();
        explorer.scrollIntoView({ block: "start" });
        pick.focus({ preventScroll: true });
      }));
  });
})();
