"use strict";
const contents = document.querySelector("nav > details");
if (matchMedia("(max-width: 1099px)").matches) contents.open = false;
const folded = () => document.querySelectorAll("main details:not(.trials):not([open])");
addEventListener("beforeprint", () => folded().forEach((one) => { one.open = true; one.dataset.printed = ""; }));
addEventListener("afterprint", () => document.querySelectorAll("[data-printed]").forEach((one) => {
  one.open = false;
  delete one.dataset.printed;
}));
