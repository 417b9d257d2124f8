overview();
classSection();
mapSection();
numbers();
confusionSection();
reviewSection();
