"use strict";
(function () {
  function key(row, column) { return row.cells[column].dataset.sort; }
  function compare(a, b) {
    if (a === b) { return 0; }
    if (a === "") { return 2; }
    if (b === "") { return -2; }
    var x = Number(a), y = Number(b);
    if (!isNaN(x) && !isNaN(y)) { return x < y ? -1 : 1; }
    return a < b ? -1 : 1;
  }
  function sortBy(table, heading, column) {
    var down = heading.getAttribute("aria-sort") === "descending";
    var first = heading.getAttribute("aria-sort") === null && heading.classList.contains("number");
    var sign = down || (heading.getAttribute("aria-sort") === null && !first) ? 1 : -1;
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (a, b) {
      var order = compare(key(a, column), key(b, column));
      return Math.abs(order) === 2 ? order : sign * order;  // what has no value stays last
    });
    rows.forEach(function (row) { body.appendChild(row); });
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) { cell.removeAttribute("aria-sort"); });
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  }
  Array.prototype.forEach.call(document.querySelectorAll("table.sortable"), function (table) {
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (heading, column) {
      var title = heading.querySelector(".title");
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = title.textContent;
      title.textContent = "";
      title.appendChild(button);
      button.addEventListener("click", function () { sortBy(table, heading, column); });
    });
  });
  function select(node) {
    var range = document.createRange();
    range.selectNodeContents(node);
    window.getSelection().removeAllRanges();
    window.getSelection().addRange(range);
  }
  Array.prototype.forEach.call(document.querySelectorAll("button.copy"), function (button) {
    button.addEventListener("click", function () {
      select(document.getElementById(button.dataset.copy));
      // Works in a page opened as a file, where the newer clipboard may be refused; what is selected stays selected.
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: copy it with Ctrl+C";
    });
  });
  window.addEventListener("beforeprint", function () {
    Array.prototype.forEach.call(document.querySelectorAll("details:not(.legend)"), function (details) { details.open = true; });
  });
}());
