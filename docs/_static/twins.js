/* The state of a twin page is its hash: "#NAME" or "#break-FAULT", and "~flax" for one column. */

(() => {
  const page = document.querySelector(".twin-page");
  if (!page) return;
  const chooser = document.getElementById("chooser");
  const mend = document.getElementById("mend");
  const list = document.getElementById("break-it");
  const buttons = [...page.querySelectorAll("[data-show]")];
  let opener = null; // what had the focus before a fault was chosen

  const state = () => {
    const [anchor, side] = decodeURIComponent(location.hash.slice(1)).split("~");
    return { anchor, side, fault: anchor.startsWith("break-") && document.getElementById(anchor) };
  };

  const go = (anchor, side) => {
    location.hash = anchor + (side ? "~" + side : "");
  };

  const restore = () => {
    for (const line of page.querySelectorAll(".broken")) {
      line.replaceChildren(...line.querySelector("del").childNodes);
      line.classList.remove("broken");
    }
    for (const article of page.querySelectorAll(".break.chosen")) {
      article.classList.remove("chosen");
      list.append(article);
    }
  };

  const plant = (article) => {
    const line = document.getElementById(`${article.dataset.side}-${article.dataset.line}`);
    const indent = " ".repeat(line.style.getPropertyValue("--i"));
    const del = document.createElement("del");
    del.append(...line.childNodes);
    const planted = [...article.querySelectorAll("ins")].map((added) => {
      const ins = document.createElement("ins");
      ins.textContent = indent + added.textContent;
      return ins;
    });
    line.append(del, ...planted);
    line.classList.add("broken");
    article.classList.add("chosen");
    document.getElementById(article.dataset.section).querySelector(".twins").after(article);
  };

  const show = () => {
    const { anchor, side, fault } = state();
    restore();
    if (fault) plant(fault);
    const [, ofLine] = anchor.match(/^(torch|flax)-\d+$/) || [];
    const shown = side || (fault && fault.dataset.side) || ofLine || page.dataset.side || "torch";
    page.dataset.side = shown;
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.show === shown));
    }
    if (chooser) chooser.value = fault ? fault.id : "";
    if (mend) mend.hidden = !fault;
    if (fault) {
      page.querySelector(".broken").scrollIntoView({ behavior: "instant" });
      if (fault.querySelector(".outcome").getBoundingClientRect().bottom > innerHeight) {
        fault.scrollIntoView({ behavior: "instant" }); // it repeats the line on a narrow screen
      }
      fault.focus({ preventScroll: true });
    } else if (side && anchor) {
      document.getElementById(anchor)?.scrollIntoView({ behavior: "instant" });
    }
  };

  const close = () => {
    const { fault } = state();
    if (!fault) return;
    go(fault.dataset.section);
    (opener?.isConnected ? opener : chooser).focus({ preventScroll: true });
  };

  page.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#break-"]');
    if (link) opener = link;
    if (event.target.closest(".chosen .line")) {
      event.preventDefault(); // the fault stays
      page.querySelector(".broken").scrollIntoView({ behavior: "instant" });
    }
  });
  chooser?.addEventListener("change", () => {
    opener = chooser;
    chooser.value ? go(chooser.value) : close();
  });
  mend?.addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  for (const button of buttons) {
    button.addEventListener("click", () => go(state().anchor, button.dataset.show));
  }
  addEventListener("hashchange", show);
  addEventListener("load", show); // the browser has scrolled to the hash before
  show();
})();
