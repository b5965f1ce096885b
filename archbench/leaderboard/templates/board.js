(function () {
  var form = document.querySelector("form.filters");
  if (!form) { return; }
  var find = document.getElementById("find"), shown = document.getElementById("shown");
  var choices = Array.prototype.slice.call(form.querySelectorAll("select"));
  var rows = Array.prototype.slice.call(document.querySelectorAll("table.sortable tbody tr"));
  var texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
  function wanted(row, text, words) {
    return words.every(function (word) { return text.indexOf(word) !== -1; }) && choices.every(function (choice) {
      return choice.value === "" || choice.value === "=" + row.getAttribute("data-facet-" + choice.dataset.facet);
    });
  }
  function apply() {
    var words = find.value.toLowerCase().split(/\s+/).filter(Boolean), count = 0;
    rows.forEach(function (row, k) {
      row.hidden = !wanted(row, texts[k], words);
      count += row.hidden ? 0 : 1;
    });
    Array.prototype.forEach.call(document.querySelectorAll("section"), function (section) {
      var inside = section.querySelectorAll("tbody tr");
      section.hidden = inside.length > 0 && section.querySelectorAll("tbody tr:not([hidden])").length === 0;
    });
    shown.textContent = count + " of " + rows.length + " shown";
  }
  form.addEventListener("input", apply);
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("reset", function () { setTimeout(apply, 0); });
  apply();
}());
