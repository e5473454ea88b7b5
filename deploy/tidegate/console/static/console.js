// What htmx does not do by itself: hold a live page still, and say when it has ended.
"use strict";

(() => {
  const view = document.getElementById("live");
  if (!view) return;
  const button = document.getElementById("hold-still");
  const shown = view.querySelector(".live");
  const ended = view.querySelector(".ended");
  let still = false;

  button.addEventListener("click", () => {
    still = !still;
    button.setAttribute("aria-pressed", String(still));
    button.textContent = still ? "Go on" : "Hold still";
    view.classList.toggle("still", still);
    shown.querySelector(".word").textContent = still ? "Held" : "Live";
  });
  view.addEventListener("htmx:sseOpen", () => {
    shown.hidden = false;
    view.classList.remove("broken");
  });
  view.addEventListener("htmx:sseError", () => view.classList.add("broken"));
  view.addEventListener("htmx:sseBeforeMessage", (event) => {
    // Nothing is taken away under a pointer or out of the focus.
    const used = event.target.matches("#newest:hover, #newest:focus-within");
    if (still || used) event.preventDefault();
  });
  view.addEventListener("htmx:sseClose", () => {
    shown.hidden = true;
    ended.hidden = false;
  });
})();
